"""A run, its bundle and its checkpoint as version 1 wrote them: every later version must load them, with equal results.

Made by: linnaeus train animals --model lenet5_modern --epochs 3 --precision fp32 --set data.limit=12
--set checkpoint.keep=1 --set train.channels_last=false --set optim.ema=0.5
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

import linnaeus
from linnaeus.app.evaluate import evaluate
from linnaeus.app.progress import Display
from linnaeus.app.train import resume
from linnaeus.data.sources import open_source

RUN = Path(__file__).parent / "fixtures" / "v1"


def metrics(folder: Path) -> dict:
    return json.loads((folder / "model" / "model.json").read_text())["metrics"]


def test_a_bundle_of_version_1_loads_and_predicts():
    classifier = linnaeus.load(RUN)
    source = open_source("animals")
    images = [source.decode(source.read(index)) for index in range(0, 10_000, 1000)]
    predictions = classifier.predict(images)
    assert [len(prediction.top) for prediction in predictions] == [5] * 10
    assert {prediction.label for prediction in predictions} <= set(classifier.classes)
    assert all(0 < prediction.probability <= 1 for prediction in predictions)


def test_a_bundle_of_version_1_scores_as_it_did():
    result = evaluate(RUN, None, split=None, device="cpu", display=Display(quiet=True))
    assert result.scores.n == metrics(RUN)["n"]
    assert result.scores.top1.value == metrics(RUN)["top1"]["value"]
    assert result.scores.nll == pytest.approx(metrics(RUN)["nll"], rel=1e-4)


def test_a_checkpoint_of_version_1_resumes_to_the_same_weights(tmp_path):
    shutil.copytree(RUN, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    run = resume(tmp_path / "run", display=Display(quiet=True))
    ours, theirs = (linnaeus.load(folder).model.state_dict() for folder in (run.folder, RUN))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert metrics(run.folder)["n"] == metrics(RUN)["n"]


def test_a_checkpoint_of_version_1_trains_on(tmp_path):
    shutil.copytree(RUN, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"duration": "3ep"', '"duration": "5ep"'))
    run = resume(tmp_path / "run", display=Display(quiet=True))
    steps = [json.loads(line)["step"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8, 10]
