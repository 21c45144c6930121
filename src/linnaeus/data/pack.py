"""Images and labels into tar shards as WebDataset has them, or into Parquet as Hugging Face data sets have it.

The same samples give the same bytes: there is no time, no user and no order of threads in a file. The image of a sample
is a file as it was read, or as it was encoded anew.
"""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from linnaeus.core.errors import RequestError
from linnaeus.data.decode import UnreadableImage, inspect
from linnaeus.data.encode import encode_jpeg, encode_png, shrink
from linnaeus.data.sources import Source

Format = Literal["shards", "parquet"]
ROWS = 100
"""Images of one row group of Parquet: to reach one of them all are read."""
_OVERHEAD = 1536  # bytes of a sample beside its image, of a shard: two headers and a label
_ENDINGS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "PPM": "ppm",
    "JPEG2000": "jp2",
    "AVIF": "avif",
}


@dataclass(frozen=True)
class Sample:
    """One image to be written.

    Attributes:
        key: a name of its own, without an ending.
        ending: of the image's file, without a dot.
        content: the file.
        classes: positions of its classes: exactly one, or any number where images have several.
        is_anew: whether it was encoded anew.
    """

    key: str
    ending: str
    content: bytes
    classes: tuple[int, ...]
    is_anew: bool

    @property
    def weight(self) -> int:
        """About how many bytes of a shard it takes."""
        return len(self.content) + _OVERHEAD


def encoded(source: Source, index: int, *, max_side: int | None, quality: int) -> tuple[str, bytes, bool]:
    """The file of one image, whole: it was decoded to see that.

    Args:
        max_side: pixels; a larger image is made smaller, upright, and becomes a JPEG.
        quality: of that JPEG.

    Returns:
        Its ending, its bytes, and whether it was encoded anew: pixels without a file, and files of a kind that is not
        known by its ending, become PNG.

    Raises:
        UnreadableImage, OSError: with the reason.
    """
    content = source.read(index)
    pixels = source.decode(content)
    if max_side is not None and max(pixels.shape[:2]) > max_side:
        return "jpg", encode_jpeg(shrink(pixels, max_side), quality), True
    facts = inspect(content)
    ending = _ENDINGS.get(facts.format) if facts else None
    return (ending, content, False) if ending else ("png", encode_png(pixels), True)


def try_encoded(source: Source, index: int, *, max_side: int | None, quality: int) -> tuple[str, bytes, bool] | str:
    """As `encoded`, or the reason why the image cannot be had."""
    try:
        return encoded(source, index, max_side=max_side, quality=quality)
    except UnreadableImage as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


class Writer(Protocol):
    """Writes one file."""

    def add(self, sample: Sample) -> None:
        """Appends a sample."""

    def close(self) -> None:
        """Ends the file."""


class ShardWriter:
    """A tar shard: `key.jpg` and `key.cls` with the number of the class, or `key.json` with the names of several."""

    def __init__(self, path: Path, classes: Sequence[str], *, several: bool) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  # closed by `close`
        self._classes, self._several = classes, several

    def add(self, sample: Sample) -> None:
        """Appends a sample."""
        self._add(f"{sample.key}.{sample.ending}", sample.content)
        if self._several:
            names = [self._classes[position] for position in sample.classes]
            self._add(f"{sample.key}.json", json.dumps({"label": names}).encode())
        else:
            self._add(f"{sample.key}.cls", str(sample.classes[0]).encode())

    def _add(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)  # of nobody, at the beginning of time
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))

    def close(self) -> None:
        """Writes the mark of the end."""
        self._tar.close()


class ParquetFile:
    """Parquet with `image`, a struct of bytes and path, and `label`, numbers with their names in the schema."""

    def __init__(self, path: Path, classes: Sequence[str], *, several: bool) -> None:
        try:
            import pyarrow as pa  # type: ignore[import-untyped]
            from pyarrow.parquet import ParquetWriter  # type: ignore[import-untyped]
        except ImportError:
            raise RequestError("Parquet needs pyarrow: pip install 'linnaeus[table]'") from None
        label: dict[str, Any] = {"names": list(classes), "_type": "ClassLabel"}
        features = {"image": {"_type": "Image"}, "label": {"feature": label, "_type": "List"} if several else label}
        number = pa.list_(pa.int64()) if several else pa.int64()
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        notes = {"huggingface": json.dumps({"info": {"features": features}})}
        self._schema = pa.schema([("image", image), ("label", number)], metadata=notes)
        # Images are compressed already; a second time costs time and gains nothing.
        self._file = ParquetWriter(path, self._schema, compression="none")
        self._rows: list[dict[str, Any]] = []
        self._several = several

    def add(self, sample: Sample) -> None:
        """Appends a sample."""
        image = {"bytes": sample.content, "path": f"{sample.key}.{sample.ending}"}
        self._rows.append({"image": image, "label": list(sample.classes) if self._several else sample.classes[0]})
        if len(self._rows) == ROWS:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        self._file.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def close(self) -> None:
        """Writes the last rows and the table of contents."""
        if self._rows:
            self._write_group()
        self._file.close()


WRITERS: dict[Format, Callable[..., Writer]] = {"shards": ShardWriter, "parquet": ParquetFile}
"""Format -> what writes a file of it, called with (path, classes, several=...)."""
