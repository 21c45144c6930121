"""A run ends early where it is to, delivers the mean of its epochs only if that is better, and writes down which."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import linnaeus
from linnaeus.app import ending
from linnaeus.app.config import make_config
from linnaeus.app.progress import Display
from linnaeus.app.train import resume, train
from linnaeus.core.errors import Interrupted, RequestError
from linnaeus.engine.checkpoint import BEST, load_weights
from linnaeus.engine.epochs import epoch_path
from linnaeus.optim.average import average_weights

from .dots import draw_dots

TRAIN = {"batch_size": 8, "precision": "fp32", "channels_last": False, "compile": False, "duration": "6ep"}


@pytest.fixture(scope="module")
def dots(tmp_path_factory) -> Path:
    """Eighty grey images of 28 pixels in two classes."""
    return draw_dots(tmp_path_factory.mktemp("dots"), 40)


def config(dots: Path, *, optim: dict | None = None, **settings: object):
    return make_config(
        {
            "data": {"source": str(dots)},
            "model": {"name": "lenet5_modern"},
            "optim": optim or {},
            "train": {**TRAIN, **settings},
            "checkpoint": {"seconds": 0},
        }
    )


def ending_of(run) -> dict:
    return json.loads((run.folder / "manifest.json").read_text())["ending"]


def about(run) -> dict:
    return json.loads((run.model / "model.json").read_text())


def test_a_run_whose_score_is_at_its_best_ends_early_and_says_so(dots, tmp_path, capsys):
    run = train(config(dots, duration="60ep", patience="3ep"), out=tmp_path / "run", display=Display())
    found = ending_of(run)
    steps = [json.loads(line)["step"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert found["step"] == steps[-1] == found["best_step"] + 3 * steps[0]
    assert len(steps) < 60
    assert found["stopped"] == f"no better top1 on val since epoch {found['best_step'] // steps[0]}, for 3ep"
    assert f"stopped early, after epoch {len(steps)}: {found['stopped']}" in capsys.readouterr().err


def test_a_run_to_its_end_says_that_it_was_not_stopped(dots, tmp_path):
    run = train(config(dots, duration="2ep"), out=tmp_path / "run", display=Display(quiet=True))
    assert ending_of(run)["stopped"] == ""
    assert "average" not in ending_of(run)


@pytest.mark.parametrize("better", [True, False])
def test_the_mean_of_the_epochs_is_delivered_if_it_ranks_higher(dots, tmp_path, monkeypatch, capsys, better):
    ranks = {True: (2.0, 0.0), False: (-1.0, 0.0)}
    monkeypatch.setattr(ending, "judge", lambda *_, **__: ({"val/top1": 0.5}, ranks[better]))
    setting = config(dots, optim={"average": 3, "average_of": "last"}, duration="5ep")
    run = train(setting, out=tmp_path / "run", display=Display())
    found, checkpoints = ending_of(run)["average"], run.checkpoints
    epoch = found["steps"][0] // 3
    assert found["steps"] == [3 * epoch, 4 * epoch, 5 * epoch]
    assert found["delivered"] is better
    delivered = linnaeus.load(run.model).model.state_dict()
    mean = average_weights(load_weights(epoch_path(checkpoints, step)) for step in found["steps"])
    expected = mean if better else load_weights(checkpoints / BEST)
    measured = {name for name in expected if "running" in name or "tracked" in name}  # anew
    assert all(torch.equal(delivered[name], expected[name]) for name in expected.keys() - measured)
    said = "better than the best epoch, and delivered" if better else "no better than the best epoch"
    assert said in capsys.readouterr().err


def test_the_mean_gets_statistics_of_its_own_and_the_same_ones_when_the_run_is_resumed(dots, tmp_path, monkeypatch):
    monkeypatch.setattr(ending, "judge", lambda *_, **__: ({"val/top1": 1.0}, (2.0, 0.0)))
    setting = config(dots, optim={"average": 2}, duration="3ep")
    whole = train(setting, out=tmp_path / "whole", display=Display(quiet=True))

    def interrupted(*_, **__):
        raise Interrupted("stopped on request", 15)

    with monkeypatch.context() as patch:
        patch.setattr(ending, "judge", interrupted)
        with pytest.raises(Interrupted):
            train(setting, out=tmp_path / "cut", display=Display(quiet=True))
    cut = resume(tmp_path / "cut", display=Display(quiet=True))
    expected, found = (linnaeus.load(run.model).model.state_dict() for run in (whole, cut))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    steps = ending_of(whole)["average"]["steps"]
    mean = average_weights(load_weights(epoch_path(whole.checkpoints, step)) for step in steps)
    assert not torch.allclose(mean["c1.norm.running_mean"], expected["c1.norm.running_mean"], atol=1e-4)


def test_weights_that_are_damaged_are_left_out_of_the_mean(dots, tmp_path, monkeypatch, capsys):
    whole = ending.conclude

    def damage(run, begun, state, display):
        path = epoch_path(run.checkpoints, state.ranked[-1][0])
        path.write_bytes(path.read_bytes()[:-10])
        whole(run, begun, state, display)

    monkeypatch.setattr("linnaeus.app.train.conclude", damage)
    run = train(config(dots, optim={"average": 2, "average_of": "last"}), out=tmp_path / "run", display=Display())
    said = capsys.readouterr().err
    assert "left out of the average" in said
    assert "nothing to average: the weights of 1 epoch(s) are there" in said
    assert ending_of(run)["average"]["delivered"] is False


def test_what_views_bring_is_said_on_val_and_belongs_to_the_model(dots, tmp_path, capsys):
    run = train(config(dots, duration="2ep", tta="flip"), out=tmp_path / "run", display=Display())
    found = about(run)["tta"]
    assert found["views"] == "flip"
    assert found["val"]["n"] == 8
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("test-time augmentation"))
    assert f"{found['val']['without']:.2%} without and {found['val']['with']:.2%} with it" in line
    assert line.endswith("a prediction takes 2 times as long")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": {"patience": "2min"}}, "train.patience: expected epochs"),
        ({"train": {"patience": "5ep", "duration": "6ep"}}, "train.patience=5ep has no effect: a run of 6ep is over"),
        ({"train": {"metric": "map"}}, "train.metric=map: images have one class each here; take top1 or balanced"),
        (
            {"train": {"tta": "shift"}, "model": {"name": "resnet20", "image_size": 96}},
            "train.tta=shift moves images by a pixel",
        ),
        ({"train": {"tta": "flip"}, "augment": {"flip": False}}, "train.tta=flip mirrors images, and augment.flip"),
        ({"optim": {"average": 1}}, "average=1 is the epoch itself"),
        ({"optim": {"average_of": "last"}}, "average_of has no effect without average"),
        ({"optim": {"average": 3}, "train": {"duration": "1ep"}}, "optim.average has no effect in a run of 1ep"),
        ({"train": {"batch_size": "auto", "autotune": False}}, "batch_size=auto is measured, and autotune=false"),
        ({"train": {"batch_size": "many"}}, 'train.batch_size: expected a number from 1 on, or "auto"'),
        ({"train": {"batch_size": 0}}, 'train.batch_size: expected a number from 1 on, or "auto"'),
        ({"train": {"batch_size": True}}, "train.batch_size: expected a number"),
    ],
)
def test_what_has_no_effect_is_refused_in_a_line(dots, tmp_path, settings, message):
    content = {"data": {"source": str(dots)}, "model": {"name": "lenet5_modern"}}
    content |= {name: {**content.get(name, {}), **section} for name, section in settings.items()}
    with pytest.raises(RequestError) as error:
        train(make_config(content), out=tmp_path / "run", display=Display(quiet=True))
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_time_has_room_for_what_is_evaluated_at_the_end(dots):
    from linnaeus.app.begin import begin
    from linnaeus.app.forecast import _passes

    begun = begin(config(dots), display=Display(quiet=True))
    val, test, training = 8, 16, 56

    def passes(optim: dict | None = None, **settings: object) -> float:
        return _passes(replace(begun, config=config(dots, optim=optim, **settings)))

    assert passes() == 1 + 1 + test / val
    assert passes(tta="flip") == 1 + 2 * (1 + test / val) + 1
    assert passes({"average": 2}) == passes() + 1 + training / val
