"""What Parquet files and Hugging Face data sets share: Arrow columns, and the `datasets` library's notes on them.

That library notes for each column what it holds, in Parquet as JSON under the key `huggingface` of the schema: an image
(`{"_type": "Image"}`, a struct of `bytes` and `path`), or a number that stands for a name
(`{"_type": "ClassLabel", "names": [...]}`), alone or in a list.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from linnaeus.core.errors import DataError
from linnaeus.data.sources.columns import Header
from linnaeus.data.sources.rows import Cell, cell

Features = Mapping[str, Any]


def features_of(schema: Any) -> Features:
    """The notes in the schema of a Parquet file, column -> description; none where another program wrote it."""
    noted = (schema.metadata or {}).get(b"huggingface")
    try:
        found = json.loads(noted)["info"]["features"] if noted else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def class_names(features: Features) -> dict[str, tuple[str, ...]]:
    """Column -> names of its classes, in the order of their numbers."""
    found = {}
    for column, description in features.items():
        while isinstance(description, list | dict):  # a list of labels: {"feature": ...}, or in old files [...]
            if isinstance(description, dict) and description.get("_type") == "ClassLabel":
                found[column] = tuple(str(name) for name in description.get("names") or ())
            inside = description[:1] if isinstance(description, list) else [description.get("feature")]
            description = inside[0] if inside else None
    return {column: names for column, names in found.items() if names}


def header_of(where: str, schema: Any, features: Features) -> Header:
    """The columns, and which of them hold images or classes by the notes or by their type."""
    noted = tuple(name for name, d in features.items() if isinstance(d, dict) and d.get("_type") == "Image")
    structs = tuple(field.name for field in schema if is_image_struct(field.type))
    return Header(where, tuple(schema.names), noted or structs, tuple(class_names(features)))


def is_image_struct(kind: Any) -> bool:
    """Whether an Arrow type is a struct of an image's `bytes`, and perhaps its `path`."""
    from pyarrow import types  # type: ignore[import-untyped]

    return types.is_struct(kind) and "bytes" in [kind.field(number).name for number in range(kind.num_fields)]


def is_bytes(kind: Any) -> bool:
    """Whether an Arrow type is plain bytes."""
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def holds_cells(kind: Any) -> bool:
    """Whether an Arrow type can be a path, a label, a split or a group: texts, numbers, and lists of them."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return holds_cells(kind.value_type) and not types.is_nested(kind.value_type)
    return not (types.is_nested(kind) or is_bytes(kind))


def cells(batch: Any, names: Mapping[str, Sequence[str]], where: str) -> dict[str, list[Cell]]:
    """The cells of an Arrow record batch; numbers that stand for names become the names, and -1 becomes none.

    Raises:
        DataError: if a number stands for no name.
    """
    chunk = {}
    for column in batch.schema.names:
        values = batch.column(column).to_pylist()
        try:
            chunk[column] = [_named(value, names[column]) if column in names else cell(value) for value in values]
        except IndexError:
            largest = max(value for value in values if value is not None)
            raise DataError(
                f"{where}: '{column}' is {largest} in a row, and has {len(names[column])} classes, from 0 on"
            ) from None
    return chunk


def _named(value: object, names: Sequence[str]) -> Cell:
    if isinstance(value, list):
        return tuple(str(_named(part, names)) for part in value)
    if not isinstance(value, int):
        return cell(value)
    return names[value] if value >= 0 else ""
