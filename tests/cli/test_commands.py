"""Every command does its job on files as people have them, and nonsense gets one line and the right exit code."""

import csv
import io
import json
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from linnaeus.cli.use import Format, predict
from linnaeus.core.errors import VerdictError


def run(*words: object, cwd=None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "linnaeus", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "animals"
    words = ("train", "animals", "--model", "lenet5_modern", "--epochs", 2, "--set", "data.limit=60", "--out", out)
    done = run(*words, "--json")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout.splitlines()[-1])


def test_training_leaves_a_complete_run(trained):
    out, result = trained
    for name in (
        *("config.json", "manifest.json", "metrics.jsonl", "data/index.csv", "data/findings.json"),
        *("checkpoints/best.safetensors", "model/model.safetensors", "model/model.json", "model/README.md"),
    ):
        assert (out / name).is_file(), name
    assert list((out / "tensorboard").iterdir())
    assert result["metrics"]["n"] == 120
    assert result["metrics"]["top1"]["low"] < result["metrics"]["top1"]["value"] < result["metrics"]["top1"]["high"]
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [7, 14]


def test_evaluation_repeats_the_figures_of_training(trained):
    out, result = trained
    again = run("evaluate", out, "--json")
    assert again.returncode == 0, again.stderr
    scores = json.loads(again.stdout.splitlines()[-1])
    assert scores["top1"] == result["metrics"]["top1"]
    assert np.sum(scores["confusion"]) == 120
    table = run("evaluate", out).stdout
    assert "95% interval" in table
    assert "giraffe" in table


def test_evaluation_matches_classes_by_name_and_refuses_strangers(trained, tmp_path):
    out, _ = trained
    for name in ("zebra", "bear"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((28, 28), 99, np.uint8)).save(tmp_path / name / "a.png")
    scores = json.loads(run("evaluate", out, tmp_path, "--json").stdout.splitlines()[-1])
    assert [scores["classes"][i] for i, n in enumerate(scores["per_class"]["support"]) if n] == ["bear", "zebra"]
    (tmp_path / "zebra").rename(tmp_path / "unicorn")
    refused = run("evaluate", out, tmp_path)
    assert refused.returncode == 2
    assert "does not know the class 'unicorn'" in refused.stderr


@pytest.fixture
def messy(tmp_path):
    folder = tmp_path / "in coming"
    folder.mkdir()
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(folder / "plain.png")
    colour.save(folder / "rotated.jpg", exif=exif)
    colour.convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(np.arange(5400, dtype=np.uint16).reshape(60, 90) * 12).save(folder / "deep.png")
    (folder / "text.jpg").write_text("I am not an image")
    whole = io.BytesIO()
    colour.save(whole, "JPEG")
    (folder / "truncated.jpg").write_bytes(whole.getvalue()[:-400])
    return folder


def test_prediction_gives_six_rows_for_six_files_of_which_two_are_broken(trained, messy):
    out, _ = trained
    done = run("predict", out, messy, "--format", "csv")
    rows = {row["image"].rpartition("/")[2]: row for row in csv.DictReader(io.StringIO(done.stdout))}
    assert done.returncode == 1
    assert len(rows) == 6
    assert {name for name, row in rows.items() if row["error"]} == {"text.jpg", "truncated.jpg"}
    assert "truncated" in rows["truncated.jpg"]["error"]
    assert "not an image" in rows["text.jpg"]["error"]
    assert all(0 < float(row["probability"]) <= 1 for row in rows.values() if not row["error"])
    assert "Traceback" not in done.stderr


def test_prediction_prints_json_and_tables_and_takes_patterns(trained, messy):
    out, _ = trained
    done = run("predict", out, messy / "*.png", "--format", "json")
    assert done.returncode == 0
    predictions = json.loads(done.stdout)["predictions"]
    assert len(predictions) == 2
    assert predictions[0]["top"][0] == [predictions[0]["label"], predictions[0]["probability"]]
    assert "plain.png" in run("predict", out, messy / "plain.png").stdout


def test_models_are_listed_with_their_cost_and_the_source_of_their_weights(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = run("models", "resnet1").stdout
    assert "resnet18" in text
    assert "11.69 M" in text
    assert "torchvision, 69.8% top-1" in text
    assert "resnet50" not in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "no-such-folder"], 2, "neither a folder nor a built-in set"),
        (["train", "animals", "--model", "resnet81"], 2, "did you mean"),
        (["train", "animals", "--duration", "soon"], 2, "is not a duration"),
        (["train", "animals", "--epochs", 1, "--duration", "1ep"], 2, "say the same"),
        (["train", "animals", "--set", "train.speed=9"], 2, "unknown setting 'train.speed'"),
        (["train", "animals", "--set", "speed"], 2, "expected section.key=value"),
        (["train", "animals", "--device", "abacus"], 2, "cannot be used"),
        (["train", "animals", "--config", "absent.yaml"], 2, "cannot be read"),
        (["train", "animals", "--model", "lenet5", "--image-size", 30], 2, "expected 28 or 32"),
        (["train", "animals", "--model", "lenet5", "--weights", "default"], 2, "lenet5 has no published weights"),
        (["train", "animals", "--weights", "no/such.pth"], 2, "there are no weights at no/such.pth"),
        (["train", "animals", "--set", "model.options.pretrained=true"], 2, "model.weights says it"),
        (["resume", "."], 2, "is not the folder of a run"),
        (["evaluate", "."], 2, "holds no finished model"),
        (["predict", ".", "a.jpg"], 2, "holds no finished model"),
        (["predict", ".", "a.jpg", "--embeddings", "seen.csv"], 2, "ends in .npz"),
        (["models", "xyz"], 2, "no model matches"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_a_wrong_request_gets_one_line(words, code, message, tmp_path):
    done = run(*words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


def test_weights_that_cannot_be_had_get_one_line_at_once(tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("LINNAEUS_MIRROR", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("LINNAEUS_CACHE", str(tmp_path / "cache"))
    done = run("train", "animals", "--weights", "default", cwd=tmp_path)
    assert done.returncode == 4
    assert "resnet18-f37072fd.pth elsewhere and save it as" in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


def test_data_that_cannot_be_used_is_exit_code_three(tmp_path):
    assert run("train", tmp_path).returncode == 3
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{number}.jpg").write_text("no image")
    done = run("train", tmp_path)
    assert done.returncode == 3
    assert "none of the 8 images can be read" in done.stderr


def test_an_existing_folder_is_not_overwritten(trained):
    out, _ = trained
    done = run("train", "animals", "--out", out)
    assert done.returncode == 2
    assert "exists already" in done.stderr


def test_help_answers_at_once():
    times = []
    for _ in range(12):  # the least of them is that which no other process delayed
        start = time.perf_counter()
        assert run("--help").returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 0.4


COMMANDS = ["doctor", "train", "resume", "evaluate", "predict", "models", "demo"]
COMMANDS += ["data pack", "data split", "data show"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(command):
    text = run(*command.split(), "--help").stdout
    assert f"linnaeus {command}" in text.split("Example", 1)[1]


def test_prediction_writes_embeddings(trained, messy):
    out, _ = trained
    done = run("predict", out, messy, "--format", "csv", "--embeddings", messy.parent / "seen.npz")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 7
    with np.load(messy.parent / "seen.npz", allow_pickle=False) as archive:
        assert len(archive["embeddings"]) == len(archive["paths"]) == len(archive["labels"]) == 4
        assert sorted(path.rpartition("/")[2] for path in archive["failed"].tolist()) == ["text.jpg", "truncated.jpg"]
        assert np.allclose(archive["probabilities"].sum(1), 1)
        assert len(archive["classes"]) == archive["probabilities"].shape[1] == 10


@pytest.mark.parametrize("output", Format)
def test_embeddings_go_with_every_format(trained, messy, output, capsys):
    printed = []
    for embeddings in (None, messy.parent / "seen.npz"):
        with pytest.raises(VerdictError, match="2 of 6 images"):
            predict(trained[0], [str(messy)], output=output, embeddings=embeddings, device="cpu")
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""
    assert (messy.parent / "seen.npz").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision:shufflenet_v2_x0_5", "timm:test_resnet"])
def test_a_network_of_another_library_goes_through_every_command(name, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is not installed")
    out = tmp_path / "run"
    words = ("train", "animals", "--model", name, "--epochs", 2, "--set", "data.limit=40", "--out", out)
    trained = run(*words, "--json")
    assert trained.returncode == 0, trained.stderr
    metrics = json.loads(trained.stdout.splitlines()[-1])["metrics"]
    assert json.loads(run("evaluate", out, "--json").stdout.splitlines()[-1])["top1"] == metrics["top1"]
    Image.fromarray(np.full((28, 28), 99, np.uint8)).save(tmp_path / "a.png")
    done = run("predict", out, tmp_path / "a.png", "--format", "json", "--embeddings", tmp_path / "a.npz")
    assert json.loads(done.stdout)["predictions"][0]["label"]
    assert np.load(tmp_path / "a.npz")["embeddings"].shape[0] == 1
    assert name in run("models", name).stdout

    weights = load_file(out / "model" / "model.safetensors")
    shutil.rmtree(out / "model")
    max((out / "checkpoints").glob("step-*")).unlink()  # as if it had been killed in the second epoch
    resumed = run("resume", out)
    assert resumed.returncode == 0, resumed.stderr
    again = load_file(out / "model" / "model.safetensors")
    assert all(np.array_equal(again[key], weights[key]) for key in weights)
