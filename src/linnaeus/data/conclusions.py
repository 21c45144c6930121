"""What was concluded from the facts, kept beside them: of a million images that takes minutes."""

import json
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.files import load_tensors, save_tensors
from linnaeus.data.duplicates import Twins
from linnaeus.data.facts import Audit, hash_rows, made_with
from linnaeus.data.findings import Diagnosis, Finding
from linnaeus.data.sources import Labels

KIND, VERSION = "linnaeus-conclusions", 1


def mark_of(labels: Labels, found: Audit) -> str:
    """Of all that conclusions are drawn from: names, facts and labels, and the code that draws them."""
    digest = blake2b(digest_size=16)
    extra = {name: facet.values for name, facet in labels.extra.items()}
    said = [made_with(), found.names, hash_rows(found.rows), labels.classes, labels.ignored, extra]
    digest.update(json.dumps([*said, found.broken, found.remarks]).encode())
    for column in (labels.targets, labels.splits, *(facet.codes for facet in labels.extra.values())):
        digest.update(np.ascontiguousarray(column).view(np.uint8).data)
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def keep(path: Path, mark: str, diagnosis: Diagnosis) -> None:
    """Writes the conclusions; where that fails, the next run draws them again."""
    twins = diagnosis.case.twins
    copies = np.flatnonzero(twins.copy_of != np.arange(len(twins.copy_of)))
    arrays = {
        "copies": np.stack([copies, twins.copy_of[copies]]),
        "near": np.stack([twins.first, twins.second]),
        "mirrored": twins.mirrored,
    }
    about = {"mark": mark, "complete": twins.complete, "findings": list(map(_to_json, diagnosis.findings))}
    with suppress(OSError, EnvironmentFault):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, KIND, VERSION, {name: torch.from_numpy(array) for name, array in arrays.items()}, about)


def recall(path: Path, mark: str, count: int) -> tuple[Twins, tuple[Finding, ...]] | None:
    """What was concluded of `count` images; None if that is missing, damaged, or was drawn from something else."""
    try:
        tensors, about = load_tensors(path, KIND, VERSION)
    except (RequestError, EnvironmentFault, OSError):
        return None
    if about["mark"] != mark:
        return None
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    copy_of = np.arange(count)
    copy_of[arrays["copies"][0]] = arrays["copies"][1]
    first, second = arrays["near"]
    twins = Twins(copy_of, first, second, arrays["mirrored"], about["complete"])
    return twins, tuple(map(_from_json, about["findings"]))


def _to_json(finding: Finding) -> dict[str, Any]:
    files = [list(finding.files), list(finding.files.values())]
    return {
        "kind": finding.kind,
        "reason": finding.reason,
        "files": files,
        "groups": finding.groups,
        "subjects": finding.subjects,
    }


def _from_json(content: dict[str, Any]) -> Finding:
    return Finding(
        content["kind"],
        content["reason"],
        dict(zip(*content["files"], strict=True)),
        tuple(map(tuple, content["groups"])),
        tuple(content["subjects"]),
    )
