"""The programs beside an artefact are whole, and say of photos what Linnaeus says, without it."""

import ast
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from linnaeus.data.encode import encode_png
from linnaeus.deploy.formats import FORMATS
from linnaeus.deploy.snippets import write_snippets

from .small import bundle, deliver, photos

ALONE = "import sys, runpy; sys.modules['linnaeus'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], "
ALONE += "run_name='__main__')"


def ask(folder, files):
    """What `predict.py` prints of files, by name: in a process in which Linnaeus cannot be imported."""
    words = [sys.executable, "-I", "-c", ALONE, folder / "predict.py", *files]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(files, (line.split("\t")[1:] for line in done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_program_is_python_a_screenful_long(name, batch, task, tmp_path):
    write_snippets(tmp_path, name, "f32", batch, bundle(task=task).about)
    text = (tmp_path / "predict.py").read_text()
    defined = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert defined == {"prepare", "probabilities"}
    assert "linnaeus" not in text
    assert "$" not in text
    assert len(text.splitlines()) < 60
    assert "pip install" in text


def test_programs_in_other_languages_go_with_onnx_where_it_takes_one_image(tmp_path):
    about = bundle(channels=1).about
    for name, batch, expected in (("onnx", None, 3), ("onnx", 1, 3), ("onnx", 8, 1), ("torch", None, 1)):
        (tmp_path / "made").mkdir()
        write_snippets(tmp_path / "made", name, "f32", batch, about)
        files = sorted((tmp_path / "made").iterdir())
        assert len(files) == expected
        assert all("$side" not in file.read_text() and "$channels" not in file.read_text() for file in files)
        if expected == 3:
            assert [file.name for file in files] == ["predict.cpp", "predict.mjs", "predict.py"]
            assert "28 x 28 x 1 bytes" in files[0].read_text()
        shutil.rmtree(tmp_path / "made")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_program_in_javascript_can_be_read(tmp_path):
    for task in ("single", "multi"):
        write_snippets(tmp_path, "onnx", "f32", None, bundle(task=task).about)
        done = subprocess.run(
            ["node", "--check", tmp_path / "predict.mjs"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_it_says_of_photos_what_linnaeus_says(real_data, tmp_path):
    """Of photos that are not at the edge between two classes: Pillow's filter may round a grey level differently."""
    of, folder = bundle(), deliver(tmp_path / "a", bundle())
    files = sorted((real_data("hymenoptera") / "val").rglob("*.jpg"))[::6]
    said = ask(folder, files)
    clear = [(f, p) for f, p in zip(files, of.predict(files), strict=True) if p.top[0][1] - p.top[1][1] > 0.05]
    assert len(clear) > 0.8 * len(files)
    assert len({p.label for _, p in clear}) > 1
    for file, prediction in clear:
        assert said[file][0] == prediction.label
        assert abs(float(said[file][1]) - prediction.probability) < 0.05


def test_it_turns_photos_upright_and_makes_grey_ones_coloured(tmp_path):
    of, folder = bundle(), deliver(tmp_path / "a", bundle())
    exif, pixels = Image.Exif(), photos(2, seed=4)
    exif[0x0112] = 6
    Image.fromarray(pixels[0]).resize((60, 40)).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels[1]).convert("L").save(tmp_path / "grey.png")
    said = ask(folder, files := [tmp_path / "turned.png", tmp_path / "grey.png"])
    for file, prediction in zip(files, of.predict(files), strict=True):
        assert abs(float(said[file][1]) - prediction.probability) < 0.05


def test_it_names_all_labels_that_reach_their_thresholds(tmp_path):
    of, folder = bundle(task="multi", channels=1), deliver(tmp_path / "a", bundle(task="multi", channels=1))
    files = [tmp_path / f"{number}.png" for number in range(6)]
    for file, image in zip(files, photos(6, 1, seed=4), strict=True):
        file.write_bytes(encode_png(image))
    said = ask(folder, files)
    expected = [{name for name, _ in prediction.labels} for prediction in of.predict(files)]
    assert [set(filter(None, said[file][0].split("|"))) for file in files] == expected
    assert {len(names) for names in expected} > {1}


def test_a_fixed_number_of_images_is_filled_up(tmp_path):
    folder = deliver(tmp_path / "a", bundle(), batch=3)
    files = [tmp_path / f"{number}.png" for number in range(5)]
    for file, image in zip(files, photos(5, seed=4), strict=True):
        file.write_bytes(encode_png(image))
    expected = bundle().predict(files)
    assert [row[0] for row in ask(folder, files).values()] == [prediction.label for prediction in expected]
    assert json.loads((folder / "artefact.json").read_text())["batch"] == 3
    assert np.unique([prediction.label for prediction in expected]).size > 1


@pytest.mark.slow  # npm brings a runtime of 200 MB
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_program_in_javascript_says_what_the_one_in_python_says(real_data, tmp_path):
    folder = deliver(tmp_path / "onnx-f32", bundle())
    words = ["npm", "install", "--silent", "--no-audit", "--no-fund", "onnxruntime-node", "sharp"]
    # The files for GPUs come from another host than npm's registry.
    environment = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install onnxruntime-node and sharp: {done.stderr.strip()[-200:]}")
    files = sorted((real_data("hymenoptera") / "val").glob("*/*.jpg"))[::10]
    said = subprocess.run(
        ["node", folder / "predict.mjs", *files], capture_output=True, text=True, timeout=120, check=False
    )
    assert said.returncode == 0, said.stderr
    rows = {path: (label, float(p)) for path, label, p in (line.split("\t") for line in said.stdout.splitlines())}
    by_python = ask(folder, files)
    assert len(rows) == len(files)
    for file in files:
        label, probability = by_python[file]
        assert rows[str(file)][1] == pytest.approx(float(probability), abs=0.05)  # another library decodes and resizes
        assert rows[str(file)][0] == label or float(probability) < 0.6
