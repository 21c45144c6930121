"""What is recorded comes back from the JSON lines and from TensorBoard's files."""

import errno
import threading

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from linnaeus.core.record import BINS, Recorder, read_records
from linnaeus.models import create_model


def board(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"histograms": 0, "images": 0})
    return events.Reload()


def test_a_histogram_counts_every_value_in_its_bin(tmp_path):
    values = torch.cat([torch.linspace(-1, 1, 2 * BINS) * 0.999, torch.tensor([-1.0, 1.0, 1.0])]).reshape(-1, 1)
    recorder = Recorder(tmp_path)
    recorder.histogram(7, "weights/a", values)
    recorder.close()
    (event,) = board(tmp_path).Histograms("weights/a")
    found = event.histogram_value
    assert event.step == 7
    assert (found.min, found.max, found.num) == (-1.0, 1.0, 2 * BINS + 3)
    assert found.sum == pytest.approx(float(values.sum()), abs=1e-5)
    assert found.sum_squares == pytest.approx(float(values.square().sum()), rel=1e-5)
    assert list(found.bucket_limit) == pytest.approx(torch.linspace(-1, 1, BINS + 1)[1:].tolist(), abs=1e-6)
    assert list(found.bucket) == [3.0, *[2.0] * (BINS - 2), 4.0]


def test_values_that_are_not_finite_are_left_out_of_a_histogram(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.histogram(1, "some", torch.tensor([1.0, float("nan"), 3.0, float("inf"), -float("inf")]))
    recorder.histogram(1, "none", torch.tensor([float("nan")]))
    recorder.histogram(1, "equal", torch.zeros(5))
    recorder.close()
    events = board(tmp_path)
    assert events.Tags()["histograms"] == ["some", "equal"]
    assert [events.Histograms(name)[0].histogram_value.num for name in ("some", "equal")] == [2, 5]
    assert sum(events.Histograms("equal")[0].histogram_value.bucket) == 5


def test_images_and_the_graph_are_for_tensorboard_and_the_network_stays_as_it_is(tmp_path):
    model = create_model("lenet5_modern", num_classes=3, in_channels=1, image_size=28).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recorder = Recorder(tmp_path)
    recorder.images(3, "images", torch.full((4, 1, 8, 8), 2.0))  # more than white is white
    recorder.graph(model, torch.zeros(1, 1, 28, 28))
    recorder.close()
    events = board(tmp_path)
    (picture,) = events.Images("images")
    assert (picture.step, picture.height) == (3, 8)
    names = [node.name for node in events.Graph().node]
    assert any("Conv2d[conv]" in name for name in names)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_network_that_cannot_be_traced_says_so(tmp_path):
    class Refuses(nn.Module):
        def forward(self, x):
            raise RuntimeError("not today")

    recorder = Recorder(tmp_path)
    with pytest.raises(RuntimeError, match="not today"):
        recorder.graph(Refuses(), torch.zeros(1, 1))
    recorder.close()


def test_what_was_recorded_beyond_the_step_of_a_checkpoint_is_dropped(tmp_path):
    first = Recorder(tmp_path)
    for step in (1, 2, 3):
        first.record(step, {"loss": float(step)})
        first.histogram(step, "weights/a", torch.tensor([0.0, float(step)]))
    first.close()
    again = Recorder(tmp_path, step=2)
    again.record(3, {"loss": 30.0})
    again.histogram(3, "weights/a", torch.tensor([0.0, 30.0]))
    again.close()
    assert [record["loss"] for record in read_records(tmp_path)] == [1.0, 2.0, 30.0]
    assert [event.histogram_value.max for event in board(tmp_path).Histograms("weights/a")] == [1.0, 2.0, 30.0]


class Full:
    """A board whose thread has failed, as TensorBoard's does for good where the disk was full once."""

    def __init__(self):
        self.writes = 0

    def add_scalar(self, *_):
        self.writes += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    add_histogram_raw = add_images = add_graph = add_scalar

    def close(self):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_tensorboards_files_with_one_line_and_no_run(tmp_path):
    notes = []
    recorder = Recorder(tmp_path, note=notes.append)
    recorder._board.close()
    recorder._board = board = Full()
    for step in range(3):
        recorder.record(step, {"a": 1.0, "b": 2.0})
        recorder.histogram(step, "weights", torch.arange(3.0))
        recorder.images(step, "images", torch.zeros(1, 3, 4, 4))
    recorder.close()
    assert notes == [
        "TensorBoard's files could not be written: No space left on device. They end here; the run goes on"
    ]
    assert board.writes == 1
    assert [line["step"] for line in read_records(tmp_path)] == [0, 1, 2]


def test_a_line_that_could_not_be_written_is_written_with_the_next_one(tmp_path, monkeypatch):
    notes = []
    recorder = Recorder(tmp_path, note=notes.append)
    file, is_full = recorder._file, [True]

    class Slow:
        write, close = file.write, file.close

        def flush(self):
            if is_full[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            file.flush()

    recorder._file = Slow()
    recorder.record(1, {"a": 1.0})
    recorder.record(2, {"a": 2.0})
    is_full[0] = False
    recorder.record(3, {"a": 3.0})
    recorder.close()
    assert notes == ["the record could not be written: No space left on device. It will be tried again"]
    assert [line["a"] for line in read_records(tmp_path)] == [1.0, 2.0, 3.0]


def test_the_death_of_tensorboards_thread_prints_no_traceback_and_that_of_others_does(tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: heard.append(arguments.thread.name))
    before = threading.excepthook
    notes = []
    recorder = Recorder(tmp_path, note=notes.append)
    worker = recorder._board.file_writer.event_writer._async_writer._worker

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(worker._record_writer, "write", full)
    recorder.record(1, {"a": 1.0})
    worker.join(timeout=10)
    recorder.record(2, {"a": 1.0})
    other = threading.Thread(target=full, args=(0,), name="another")
    other.start()
    other.join()
    recorder.close()
    assert heard == ["another"]
    assert len(notes) == 1
    assert threading.excepthook is before
