"""`linnaeus export` delivers from the command line, ends with 1 where it refused, and says in a line what is wrong."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from linnaeus.app import export as exporting
from linnaeus.app.config import make_config
from linnaeus.app.progress import Display
from linnaeus.app.train import train
from linnaeus.cli import main
from linnaeus.deploy.formats import FORMATS


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    settings = {
        "data": {"source": "animals", "limit": 60, "workers": 0},
        "model": {"name": "lenet5_modern"},
        "train": {"duration": "2ep", "autotune": False, "device": "cpu"},
    }
    out = tmp_path_factory.mktemp("runs") / "animals"
    return train(make_config(settings), out=out, display=Display(quiet=True)).folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process: (exit code, stdout, stderr)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["linnaeus", "export", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return call


def test_it_delivers_and_says_what_and_where(trained, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = run(trained, "--to", "torchscript")
    assert code == 0
    assert "torchscript:f32" in out
    assert "delivered" in out
    assert (trained / "exports" / "torchscript-f32" / "predict.py").is_file()
    assert json.loads((trained / "exports.json").read_text())["exports"][0]["name"] == "torchscript:f32"


def test_a_refused_artefact_is_exit_code_one_with_the_reason(trained, run, monkeypatch):
    right = exporting.open_run

    def swapped(*args):
        artefact = right(*args)
        return lambda images: np.ascontiguousarray(artefact(images)[:, ::-1])

    monkeypatch.setattr(exporting, "open_run", swapped)
    code, out, err = run(trained, "--to", "torchscript,torch:bf16", "--json")
    assert code == 1
    assert "refused: torchscript:f32, torch:bf16; see the reasons" in err
    assert "a probability differs by" in err
    assert "points of accuracy" in err
    assert not (trained / "exports" / "torchscript-f32").exists()
    figures = json.loads(out.splitlines()[-1])["exports"]
    assert [each["verdict"]["outcome"] for each in figures] == ["refused", "refused"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "foo"], "there is no format 'foo'; there are torch, aoti, onnx"),
        (["--to", "onnx:int3"], "onnx has no precision 'int3'; it has f32, f16, int8"),
        (["--to", "onnx,onnx"], "expected formats, each once"),
        (["--to", "litert"], "in an environment of its own"),
        (["--batch", "0"], "expected a number from 1 to 1024, or dynamic"),
        (["--batch", "-3"], "expected a number from 1 to 1024, or dynamic"),
        (["--input", "raw"], "expected prepared"),
        (["--to", "coreml", "--input", "any"], "coreml cannot resize images"),
        (["--to", "onnx", "--input", "any", "--batch", "4"], "one image at once"),
        (["--batch", "many"], "expected a number from 1 to 1024, or dynamic"),
        (["--to", "onnx,onnx:int8-dynamic", "--qat"], "--qat has no effect on what is asked for by --to"),
        (["--to", "torch", "--data", "no/such/folder"], "no/such/folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_request_gets_one_line(words, message, trained, run):
    code, out, err = run(trained, *words)
    assert code == 2, err
    assert message in err.splitlines()[-1]
    assert err.strip().count("\n") <= 1  # what it was about to do, and what is wrong
    assert "Traceback" not in err
    assert not out


def test_a_folder_without_a_model_is_one_line(tmp_path, run):
    code, _, err = run(tmp_path)
    assert code == 2
    assert "holds no finished model" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--max-drop", -1], ["--min-agreement", 2], ["--max-drop", "much"]])
def test_limits_that_cannot_be_are_refused(words, trained, run):
    assert run(trained, *words)[0] == 2


def test_a_missing_package_says_what_installs_it(trained, run, monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], runtime=("no_such_package",)))
    code, _, err = run(trained, "--to", "onnx")
    assert code == 2
    assert "onnx:f32 needs no_such_package, which is not installed: pip install 'linnaeus[onnx]'" in err
