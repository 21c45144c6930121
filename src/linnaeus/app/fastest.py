"""The fastest way to run a classifier on this machine, as `benchmark` found it and wrote it down: `benchmark.json`."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from linnaeus.app.contenders import EXPORTS, is_artefact, is_of
from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.files import read_json, write_json
from linnaeus.deploy.artefact import ABOUT
from linnaeus.deploy.artefact import KIND as ARTEFACT
from linnaeus.deploy.artefact import VERSION as ARTEFACT_VERSION
from linnaeus.deploy.bundle import read_about

KIND, VERSION = "linnaeus-benchmark", 1
FILE = "benchmark.json"
RUNTIMES = ("torch", "onnxruntime", "openvino", "executorch")
_CPUINFO = Path("/proc/cpuinfo")


def fastest_artefact(folder: Path, *, many: bool) -> Path | None:
    """The artefact that `benchmark` found to answer fastest on this machine, faster than the network by any way.

    It is advice: whatever is wrong with it, or with the file, the network itself still does the work.

    Args:
        folder: of a run or a model.
        many: whether many images are to be classified at once, rather than one.

    Returns:
        None if nothing was measured, or on another machine; if the network itself was the fastest; or if the artefact
        is gone, or was made of another state of the model.
    """
    try:
        content = read_json(folder / FILE, KIND, VERSION)
        name = content["fastest"]["many" if many else "one"]["artefact"]
        if name is None or not is_this_machine(content["machine"]):
            return None
        place = folder / EXPORTS / Path(name).name
        about = read_json(place / ABOUT, ARTEFACT, ARTEFACT_VERSION)
        return place if is_artefact(place) and is_of(about, read_about(folder)) else None
    except (RequestError, EnvironmentFault):
        return None


def remember(folder: Path, content: Mapping[str, Any]) -> Path:
    """Writes `benchmark.json` of a run or a model, with a description of this machine; gives its path."""
    path = folder / FILE
    write_json(path, KIND, VERSION, {"machine": machine(), **content})
    return path


def machine() -> dict[str, Any]:
    """This machine: its processor, and the versions of what runs classifiers on it."""
    return {
        "cpu": _processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "versions": {name: found for name in RUNTIMES if (found := _version(name))},
    }


def is_this_machine(described: Mapping[str, Any]) -> bool:
    """Whether a description is of a machine with this processor and as many cores."""
    own = machine()
    return all(described.get(part) == own[part] for part in ("cpu", "architecture", "cores"))


def _processor() -> str:
    """The processor's model; where the system does not tell, its kind."""
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
