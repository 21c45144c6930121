"""What happened: one JSON line per event, mirrored to TensorBoard."""

import copy
import json
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning as _TracerWarning

from linnaeus.core.files import write_text

BINS = 64
"""Of a histogram, between the least and the greatest value: 1 KiB on disk."""


class Recorder:
    """Appends scalars to `metrics.jsonl` and to `tensorboard/` in a run's folder.

    A name such as "val/top1" becomes TensorBoard's tag; the JSON line holds the same names. A full disk ends no run: a
    line that cannot be written is tried again with the next one, and TensorBoard's files end where it was full.
    """

    def __init__(self, folder: Path, *, step: int = 0, note: Callable[[str], None] = lambda _: None) -> None:
        """Continues the records at `step`: what an interrupted run wrote beyond it is dropped: it will come again.

        `note` is told in a line what could not be written.
        """
        self._note, self._is_behind = note, False
        self._path = folder / "metrics.jsonl"
        if self._path.exists():
            kept = [line for line in read_records(folder) if line["step"] <= step]
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = _summary_writer(folder / "tensorboard", step)
        self._hook = threading.excepthook
        threading.excepthook = self._hear_thread

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of one step at once, so that a kill loses at most the line being written."""
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:  # the line stays in the file's buffer
            if not self._is_behind:
                self._note(f"the record could not be written: {error.strerror}. It will be tried again")
            self._is_behind = True
        else:
            self._is_behind = False

        def scalars(board: Any) -> None:
            for name, value in values.items():
                board.add_scalar(name, value, step)

        self._mirror(scalars)

    def histogram(self, step: int, name: str, values: Tensor) -> None:
        """How the values of a tensor of any shape are distributed, for TensorBoard; those not finite are left out.

        Counted in equal bins on the tensor's own device: TensorBoard's way of counting takes many times as long.
        """
        values = values.detach().flatten().float()
        low, high = torch.aminmax(values)
        if not bool(torch.isfinite(high - low)):
            values = values[torch.isfinite(values)]
            low, high = torch.aminmax(values) if len(values) else (low, high)
        if not len(values):
            return
        ends = (float(low), float(high)) if low < high else (float(low) - 1e-6, float(low) + 1e-6)
        counts = torch.histc(values, BINS, *ends)
        content = {
            "min": float(low),
            "max": float(high),
            "num": len(values),
            "sum": float(values.sum()),
            "sum_squares": float(values.square().sum()),
            "bucket_limits": torch.linspace(*ends, BINS + 1)[1:].tolist(),
            "bucket_counts": counts.tolist(),
        }
        self._mirror(lambda board: board.add_histogram_raw(name, **content, global_step=step))

    def images(self, step: int, name: str, images: Tensor) -> None:
        """(B, 1 or 3, H, W) float in [0, 1], as one picture for TensorBoard."""
        shown = images.detach().clamp(0, 1).cpu()
        self._mirror(lambda board: board.add_images(name, shown, step))

    def graph(self, model: nn.Module, images: Tensor) -> None:
        """The network as TensorBoard draws it, in evaluation; `images`: (B, C, H, W) float, as it takes them.

        Raises:
            RuntimeError: if it cannot be traced.
        """
        copied = copy.deepcopy(model).cpu().eval()  # tracing calls the network several times: not the one that trains
        with warnings.catch_warnings(), redirect_stdout(StringIO()):  # it prints what it also raises
            warnings.simplefilter("ignore", FutureWarning)  # TensorBoard traces by torch.jit, which is deprecated
            warnings.simplefilter("ignore", _TracerWarning)  # a size that the graph holds as a number
            self._mirror(lambda board: board.add_graph(copied, images.detach().cpu()))

    def close(self) -> None:
        """Flushes and closes both.

        Raises:
            OSError: if lines are left that still cannot be written.
        """
        threading.excepthook = self._hook
        self._mirror(lambda board: board.close())
        self._file.close()

    def _mirror(self, write: Callable[[Any], None]) -> None:
        """Hands something to TensorBoard, unless its thread has failed before: that never recovers."""
        if self._board is None:
            return
        try:
            write(self._board)
        except OSError as error:
            self._note(f"TensorBoard's files could not be written: {error.strerror}. They end here; the run goes on")
            with suppress(OSError):
                self._board.close()
            self._board = None

    def _hear_thread(self, arguments: threading.ExceptHookArgs) -> None:
        """Keeps TensorBoard's thread from printing a traceback: the next write raises what it failed of as well."""
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            self._hook(arguments)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, without a last one torn by a kill."""
    records = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _summary_writer(folder: Path, step: int) -> Any:
    # Imported here: TensorBoard takes longer to import than all the rest of core.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
