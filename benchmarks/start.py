"""How long a training takes to start on very many files, and how much memory that costs.

    make bench BENCH=start ARGS="--files 1000000"

Writes that many small PNG files, each different, in 100 class folders. Then, in processes of their own:

- *first*: the start that indexes: list, read and decode every image, look for faults and copies, share out the roles,
  write the records of a run.
- *second*: the same start again, of a set that has not changed.
- *floor*: listing the same folders and asking the system for the length and time of change of each file, with
  `os.scandir` alone: less cannot tell whether a set has changed.

Seconds begin after the imports. Memory is the largest resident size of the process less its size after the imports,
pages of mapped files included. The last line of stdout is one JSON object. Run it on a quiet machine.
"""

import argparse
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np

CLASSES, SIDE = 100, 16
MIB = 1 << 20


def write_files(folder: Path, count: int) -> None:
    """Grey noise of 16 by 16 pixels: each file differs from all others, and none resembles another."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class-{label:03d}").mkdir(parents=True)
    for first in range(0, count, 10_000):
        pixels = rng.integers(0, 256, (min(10_000, count - first), SIDE, SIDE), np.uint8)
        for number, image in enumerate(pixels, first):
            (folder / f"class-{number % CLASSES:03d}" / f"{number:07d}.png").write_bytes(encode(image))


def encode(image: np.ndarray) -> bytes:
    """A PNG of (H, W) uint8, faster than any library writes one."""
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    parts = (struct.pack(">I", len(b)) + kind + b + struct.pack(">I", zlib.crc32(kind + b)) for kind, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def start(folder: Path, records: Path) -> dict[str, float]:
    """Starts as `linnaeus train` does, up to the records of the run; seconds, and MiB above those of the imports."""
    import torch

    from linnaeus.app.config import DataConfig
    from linnaeus.app.prepare import prepare, write_records
    from linnaeus.app.progress import Display
    from linnaeus.explain.memory import forget_peak, peak  # what a parent took counts in getrusage, and not here

    cpu = torch.device("cpu")
    forget_peak(cpu)
    before = peak(cpu)
    began = time.perf_counter()
    prepared = prepare(DataConfig(source=str(folder)), seed=0, display=Display(quiet=True))
    prepared.summary()
    write_records(records, prepared)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "mib": (peak(cpu) - before) / MIB, "imports_mib": before / MIB}


def floor(folder: Path) -> dict[str, float]:
    """Lists the files and asks for the length and time of change of each."""
    began = time.perf_counter()
    found = 0
    for place in os.scandir(folder):
        for entry in os.scandir(place.path):
            status = entry.stat()
            found += status.st_size + status.st_mtime_ns > 0
    return {"seconds": time.perf_counter() - began, "files": found}


def in_own_process(what: str, folder: Path, scratch: Path) -> dict[str, float]:
    """One of `start` and `floor`, with a cache of its own."""
    command = [sys.executable, __file__, "--once", what, "--folder", str(folder), "--scratch", str(scratch)]
    done = subprocess.run(
        command, env={**os.environ, "LINNAEUS_CACHE": str(scratch / "cache")}, stdout=subprocess.PIPE, check=True
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def measure(count: int, scratch: Path, rounds: int) -> dict[str, object]:
    """First and second starts, and the floor beside them."""
    folder = scratch / "files"
    write_files(folder, count)
    results: dict[str, object] = {"files": count}
    results["first"] = in_own_process("first", folder, scratch)
    print(f"first   {results['first']}", flush=True)
    seconds, floors, memory = [], [], []
    for number in range(rounds):
        second, least = (in_own_process(what, folder, scratch) for what in (f"second-{number}", "floor"))
        seconds.append(second["seconds"])
        memory.append(second["mib"])
        floors.append(least["seconds"])
        print(f"second  {second}; floor {least}", flush=True)
    results["second"] = {"seconds": float(np.median(seconds)), "mib": max(memory)}
    results["floor"] = {"seconds": float(np.median(floors))}
    results["ratio"] = float(np.median(np.divide(seconds, floors)))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3, help="second starts")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once == "floor":
        print(json.dumps(floor(options.folder)))
    elif options.once:
        print(json.dumps(start(options.folder, options.scratch / options.once)))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            results = measure(options.files, Path(scratch), options.rounds)
        machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        versions = {"python": platform.python_version(), "torch": version("torch"), "pillow": version("pillow")}
        print(json.dumps({**results, **machine, **versions}))


if __name__ == "__main__":
    main()
