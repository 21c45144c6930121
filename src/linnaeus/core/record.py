"""What happened: one JSON line per event, mirrored to TensorBoard."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linnaeus.core.files import write_text


class Recorder:
    """Appends scalars to `metrics.jsonl` and to `tensorboard/` in a run's folder.

    A name such as "val/top1" becomes TensorBoard's tag; the JSON line holds the same names.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        """Continues the records at `step`: what an interrupted run wrote beyond it is dropped: it will come again."""
        self._path = folder / "metrics.jsonl"
        if self._path.exists():
            kept = [line for line in read_records(folder) if line["step"] <= step]
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = _summary_writer(folder / "tensorboard", step)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of one step at once, so that a kill loses at most the line being written."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._board.close()


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
