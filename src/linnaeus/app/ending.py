"""How a run ends: early or at its time, with the weights of its best epoch or the mean of several; written down."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import islice
from typing import Any

from linnaeus.app.begin import Beginning
from linnaeus.app.judge import judge
from linnaeus.app.progress import Display
from linnaeus.app.rules import METRICS, make_pick
from linnaeus.app.run import Run
from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.seed import derive
from linnaeus.data.loader import watched_workers
from linnaeus.engine.checkpoint import BEST, load_weights
from linnaeus.engine.epochs import epoch_path
from linnaeus.engine.evaluate import Parts
from linnaeus.engine.guard import run_as_it_is
from linnaeus.engine.step import State
from linnaeus.optim.average import STATISTICS_IMAGES, average_weights, measure_statistics


def conclude(run: Run, begun: Beginning, state: State, display: Display) -> None:
    """Leaves in `state.model` the weights to deliver, and writes into the manifest how the run ended and why.

    A run that is killed here does the same again when it is resumed.
    """
    train, epoch = begun.config.train, begun.images.training().num_batches
    metric = train.metric or METRICS[begun.prepared.task][0]
    if state.best is not None:  # else its file was lost when the last step had been taken
        state.judged.load_state_dict(load_weights(run.checkpoints / BEST))
    state.model.load_state_dict(state.judged.state_dict())
    run_as_it_is(state.model)
    ending: dict[str, Any] = {"step": state.step, "best_step": state.best_step, "metric": metric, "stopped": ""}
    if state.stopped:
        since = f"no better {metric} on val since epoch {-(-state.best_step // epoch)}"
        ending["stopped"] = f"{since}, for {train.patience}"
        display.say(f"stopped early, after epoch {-(-state.step // epoch)}: {ending['stopped']} (train.patience)")
    if begun.config.optim.average:
        ending["average"] = _try_average(run, begun, state, display)
    run.write_manifest({**run.read_manifest(), "ending": ending})


def _try_average(run: Run, begun: Beginning, state: State, display: Display) -> dict[str, Any]:
    """Takes the mean of the kept epochs' weights if it ranks higher than the best epoch; what was found."""
    pick, device = make_pick(begun.config), begun.device
    assert pick is not None
    steps = _whole(run, pick.steps(state.ranked), display)
    if len(steps) < 2 or state.best is None:
        display.say(f"nothing to average: the weights of {len(steps)} epoch(s) are there")
        return {"steps": steps, "delivered": False}
    model = deepcopy(state.model)
    model.load_state_dict(average_weights(load_weights(epoch_path(run.checkpoints, step)) for step in steps))
    loader, size = begun.images.training(), begun.config.train.images_per_step
    preprocess, loader_val = begun.images.preprocess.to(device), begun.images.evaluation("val")
    with watched_workers():
        batches = islice(loader.epoch(0), -(-STATISTICS_IMAGES // size))
        images = (preprocess(batch.images[batch.valid].to(device)) for batch in batches)
        measure_statistics(model, images, seed=derive(begun.config.train.seed, "average"))
        with display.bar("evaluating the average", loader_val.num_images) as advance:
            scores, rank = judge(begun, model.eval(), loader_val, parts=Parts(display.say), progress=advance)
    is_better = rank > state.best
    if is_better:
        state.model.load_state_dict(model.state_dict())
    said = ", ".join(f"{name.removeprefix('val/')} {score:.4f}" for name, score in scores.items())
    verdict = "better than the best epoch, and delivered" if is_better else "no better than the best epoch"
    epochs = ", ".join(str(-(-step // loader.num_batches)) for step in steps)
    display.say(f"mean of the weights of epochs {epochs}, on val: {said}; {verdict}")
    return {"of": pick.which, "steps": steps, "val": scores, "delivered": is_better}


def _whole(run: Run, steps: Sequence[int], display: Display) -> list[int]:
    """The steps whose weights can be read."""
    whole = []
    for step in steps:
        try:
            load_weights(epoch_path(run.checkpoints, step))
            whole.append(step)
        except (RequestError, EnvironmentFault) as error:
            display.say(f"left out of the average: {error}")
    return whole
