"""Damaged image files are decoded or refused and nothing else; the fast paths do as the reference decoder does.

Small images of six formats are mutated. Each result goes through the reference decoder and through every fast path,
which must give the same pixels or refuse in the same words. As a script, for one format: KIND COUNT SEED PROGRESS.
"""

import io
import json
import os
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from linnaeus.data.decode import Pixels, UnreadableImage, decode
from linnaeus.data.fast import FastPath, best_decoder, bounded_shape
from linnaeus.explain.memory import forget_peak, peak

COUNT = 100_000
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SECONDS = 60.0
"""The longest that one file may take, of processor time, for five decodings: an image of 118 million pixels took 32."""
MEMORY = 5 * 2**30
"""Bytes that decoding may take: 26 a pixel where transparency is composited, of at most 179 million pixels."""

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def pictures() -> Iterator[Image.Image]:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(40), np.arange(48))[:, :, None] * (1, 2, 3) + rng.integers(0, 40, (40, 48, 3))
    colour = Image.fromarray(smooth.clip(0, 255).astype(np.uint8))
    clear = colour.convert("RGBA")
    clear.putalpha(colour.convert("L"))
    yield from (colour, colour.convert("L"), clear, colour.convert("P"), colour.convert("1"), colour.convert("CMYK"))
    yield Image.fromarray(rng.integers(0, 2**16, (20, 24), np.uint16))


def options(kind: str) -> list[dict[str, object]]:
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", (48, 40), colour) for colour in ("red", "blue")]
    return {
        "JPEG": [
            {},
            {"progressive": True},
            {"subsampling": 0, "exif": exif},
            {"restart_marker_blocks": 2},
            {"quality": 5},
        ],
        "PNG": [{}, {"exif": exif}, {"save_all": True, "append_images": frames}],
        "WEBP": [{}, {"lossless": True, "exif": exif}, {"save_all": True, "append_images": frames}],
        "GIF": [{}, {"interlace": True}, {"save_all": True, "append_images": frames}],
        "BMP": [{}],
        "TIFF": [
            {"compression": name} for name in (None, "tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate", "group4")
        ],
    }[kind]


def seeds(kind: str) -> list[bytes]:
    """Every picture with every option, as far as the format takes them."""
    found = []
    for picture in pictures():
        for chosen in options(kind):
            buffer = io.BytesIO()
            try:
                picture.save(buffer, kind, **chosen)
            except (OSError, ValueError, KeyError, RuntimeError):
                continue
            found.append(buffer.getvalue())
    return found


def mutate(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to three small changes, most of them near the front, where the headers are."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        reach = len(data) if rng.random() < 0.5 else min(len(data), 200)
        at, length = int(rng.integers(reach)), int(rng.integers(1, 9))
        match rng.integers(8):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.integers(256))
            case 2:
                width = int(rng.choice([1, 2, 4]))
                extreme = int(rng.choice(EXTREMES)) % 256**width
                data[at : at + width] = extreme.to_bytes(width, "big" if rng.random() < 0.5 else "little")
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = rng.bytes(length)
            case 5:
                data[at:at] = data[at : at + 10 * length]
            case 6:
                del data[int(rng.integers(len(data))) :]
            case 7:
                data[at:] = other[int(rng.integers(len(other))) :]
    return bytes(data)


def mend_checksums(content: bytes) -> bytes:
    """Makes the checksums of a PNG right, so that what is wrong gets past them."""
    data, at = bytearray(content), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(data)


def outcome(decoder: Callable[[bytes], Pixels], content: bytes) -> Pixels | str:
    """The pixels, or the reason why there are none."""
    try:
        return decoder(content)
    except UnreadableImage as refusal:
        return str(refusal)


def examine(content: bytes, paths: list[FastPath]) -> bool:
    """Whether a file is decoded rather than refused; asserts that all decoders agree."""
    expected = outcome(decode, content)
    for path in paths:
        whole = outcome(partial(path.bounded, bound=10**6), content)
        assert type(whole) is type(expected), (path, whole, expected)
        assert np.array_equal(whole, expected), (path, whole, expected)
        small = outcome(partial(path.bounded, bound=8), content)
        if isinstance(expected, str):
            assert small == expected, path
        else:
            assert not isinstance(small, str), (path, small)
            assert small.shape == (*bounded_shape(*expected.shape[:2], 8), expected.shape[2]), path
    return not isinstance(expected, str)


def fuzz(kind: str, count: int, seed: int, progress: Callable[[int], None]) -> dict[str, float]:
    """Examines `count` mutants of one format; what they cost."""
    start = seeds(kind)
    paths = [FastPath(name) for name in {"pillow", best_decoder()}]
    cpu = torch.device("cpu")
    forget_peak(cpu)
    before = peak(cpu)
    decoded, slowest = 0, 0.0
    for number in range(count):
        progress(number)
        rng = np.random.default_rng((seed, number))
        one, two = (start[i] for i in rng.integers(len(start), size=2))
        content = mutate(one, two, rng)
        if kind == "PNG" and number % 4:
            content = mend_checksums(content)
        began = time.thread_time()
        with warnings.catch_warnings(action="ignore"):
            decoded += examine(content, paths)
        slowest = max(slowest, time.thread_time() - began)
    return {"decoded": decoded, "refused": count - decoded, "slowest": slowest, "memory": peak(cpu) - before}


@pytest.mark.parametrize("kind", KINDS)
def test_some_damaged_files_are_decoded_or_refused_alike(kind):
    found = fuzz(kind, 100, 0, lambda _: None)
    assert found["refused"] > 5
    assert found["decoded"] > 5
    assert found["slowest"] < SECONDS


@pytest.mark.parametrize("kind", KINDS)
def test_undamaged_files_are_decoded(kind):
    for content in seeds(kind):
        assert examine(content, [FastPath(name) for name in {"pillow", best_decoder()}])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_decoded_or_refused_alike_in_bounded_time_and_memory(kind, tmp_path):
    count = -(-COUNT // len(KINDS))
    # A process of its own: a crash of a library is then a failure of this test, and its memory is counted alone.
    words = [sys.executable, __file__, kind, str(count), "1", str(tmp_path / "number")]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=3000, check=False)
    where = f"{kind}, seed 1, number {(tmp_path / 'number').read_text()}: exit code {done.returncode}"
    assert done.returncode == 0, f"{where}\n{done.stderr[-3000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    print(kind, found)  # noqa: T201  # shown by `pytest -rP`
    assert found["decoded"] + found["refused"] == count
    assert found["slowest"] < SECONDS
    assert found["memory"] < MEMORY


if __name__ == "__main__":
    kind, count, seed, path = sys.argv[1:]
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    print(json.dumps(fuzz(kind, int(count), int(seed), lambda n: os.pwrite(file, b"%d" % n, 0))))  # noqa: T201
