"""`data pack`, `data split` and `data show`."""

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from linnaeus.cli.train import Json, LabelColumn, PathColumn, Settings, SplitColumn
from linnaeus.core.errors import RequestError

data_app = typer.Typer(
    name="data",
    help="Pack images into few files, write down their roles, look at them as the network will.",
    no_args_is_help=True,
)
Data = Annotated[str, typer.Argument(help="As for `linnaeus train`.")]
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


class Layout(StrEnum):
    """What `pack` writes."""

    shards = "shards"
    parquet = "parquet"


@data_app.command()
def pack(
    data: Data,
    out: Annotated[Path, typer.Argument(help="The folder to write; what an earlier call finished in it is kept.")],
    layout: Annotated[Layout, typer.Option("--format", help="Tar shards (WebDataset), or Parquet.")] = Layout.shards,
    shard_size: Annotated[
        str | None, typer.Option(help="Of a file, about; default: 256MB for shards, one Parquet file a split.")
    ] = None,
    max_side: Annotated[
        int | None, typer.Option(min=1, help="Make larger images smaller, in pixels; the files stay as they are else.")
    ] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Of the JPEG files that --max-side makes.  [default: 90]")
    ] = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    as_json: Json = False,
) -> None:
    """Pack any set of images into few large files, with labels and splits; every command takes OUT as DATA.

    Called again after an interruption, it goes on. Unreadable images are left out and told. Other programs read the
    result as WebDataset shards, or as a data set of Hugging Face.

    Examples:

      linnaeus data pack photos/ packed/

      linnaeus data pack photos/ packed/ --shard-size 1GB --max-side 512

      linnaeus data pack labels.csv packed/ --format parquet --json
    """
    from linnaeus.app.config import DataConfig
    from linnaeus.app.pack import QUALITY, SHARD_SIZE, Packing
    from linnaeus.app.pack import pack as run_packing
    from linnaeus.app.progress import Display

    if quality is not None and max_side is None:
        raise RequestError("--quality has no effect without --max-side: no image is encoded anew")
    default = SHARD_SIZE if layout == Layout.shards else None
    size = default if shard_size is None else parse_size(shard_size)
    packing = Packing(layout.value, size, max_side, QUALITY if quality is None else quality)
    config = DataConfig(source=data, path_column=path_column, label_column=label_column, split_column=split_column)
    packed = run_packing(config, out, packing, Display(results=not as_json))
    if as_json:
        typer.echo(json.dumps(packed.to_json()))


@data_app.command()
def split(
    data: Data,
    out: Annotated[Path, typer.Argument(metavar="OUT.csv", help="The table to write: path, label, split.")],
    val_share: Annotated[
        float | None, typer.Option(help="To set aside for val, if it is missing.  [default: 0.1]")
    ] = None,
    test_share: Annotated[float | None, typer.Option(help="The same for test.  [default: 0.2]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Who is set aside is a function of it.")] = 0,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    as_json: Json = False,
) -> None:
    """Write down who learns and who judges: the roles that `linnaeus train` would give, as a table it takes.

    Splits that DATA states are kept. Near copies of one image share a role. Images that are unreadable or quarantined
    have no row.

    Examples:

      linnaeus data split photos/ split.csv

      linnaeus data split photos/ split.csv --val-share 0.15 --test-share 0.15 --seed 3
    """
    from linnaeus.app.config import make_config
    from linnaeus.app.progress import Display
    from linnaeus.app.settings import gather
    from linnaeus.app.split import split as run_split
    from linnaeus.app.split import to_json

    flags = {
        "data.source": data,
        "data.path_column": path_column,
        "data.label_column": label_column,
        "data.split_column": split_column,
        "data.val_share": val_share,
        "data.test_share": test_share,
    }
    config = make_config(gather(None, flags, [])).data
    prepared = run_split(config, out, seed=seed, display=Display(results=not as_json))
    if as_json:
        typer.echo(json.dumps(to_json(prepared, out)))


@data_app.command()
def show(
    data: Data,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A page (.html) or a picture (.png).")] = Path("show.html"),
    images: Annotated[int, typer.Option(min=1, help="How many, of all classes in turn.")] = 32,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    settings: Settings = None,
) -> None:
    """Show images as the network will see them, before and after augmentation, with labels and roles.

    The settings are those of `linnaeus train`; the same code makes the images.

    Examples:

      linnaeus data show photos/

      linnaeus data show photos/ sheet.png --images 12

      linnaeus data show photos/ --set augment.policy=trivial --set augment.erase=0.25 --set model.image_size=176
    """
    from linnaeus.app.config import make_config
    from linnaeus.app.progress import Display
    from linnaeus.app.settings import gather
    from linnaeus.app.show import show as run_show

    flags = {
        "data.source": data,
        "data.path_column": path_column,
        "data.label_column": label_column,
        "data.split_column": split_column,
    }
    run_show(make_config(gather(None, flags, settings or [])), out, count=images, display=Display())


def parse_size(text: str) -> int:
    """ "256MB" -> 256,000,000.

    Raises:
        RequestError: if it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]B)", text.strip().upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size <= 0:
        raise RequestError(f"'{text}' is not a size: expected a number with KB, MB or GB, such as 256MB")
    return size
