"""Settings as people write them, in files and as `--set`, gathered into the nested dict that `make_config` checks."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from linnaeus.app.recipes import over_finetune
from linnaeus.core.errors import RequestError

_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


def gather(
    file: Path | None,
    options: Mapping[str, Any],
    assignments: Sequence[str],
    *,
    recipe: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All that a command was told: a file or a recipe, then the options that are not None, then what `--set` says.

    Where there is neither file nor recipe, and training is to start from weights, it starts from the recipe `finetune`.

    Args:
        file: of settings.
        options: "section.key" -> value.
        assignments: as "section.key=value".
        recipe: the settings to start from where there is no file; they are changed.

    Raises:
        RequestError: if one of them cannot be read.
    """
    content = (recipe or {}) if file is None else read_config_file(file)
    for path, value in options.items():
        if value is not None:
            merge(content, path, value)
    for text in assignments:
        merge(content, *parse_assignment(text))
    return content if file is not None or recipe is not None else over_finetune(content)


def read_config_file(path: Path) -> dict[str, Any]:
    """A YAML or JSON file with some or all settings, as a nested dict.

    Raises:
        RequestError: if it is missing or is not a mapping of sections.
    """
    content = read_yaml(path)
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key not in ("format", "version")}
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise RequestError(f"{path} must hold sections such as 'train:' with settings indented below them")
    return content


def read_yaml(path: Path) -> Any:
    """The content of a YAML or JSON file.

    Raises:
        RequestError: if it cannot be read.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """'section.key=value' -> ("section.key", value), the value typed as in YAML; or deeper: model.options.x=1.

    Raises:
        RequestError: if the text has another form.
    """
    path, equals, value = text.partition("=")
    if not equals or "." not in path or not all(path.strip().split(".")):
        raise RequestError(f"--set {text}: expected section.key=value, such as optim.weight_decay=0.05")
    try:
        return path.strip(), parse_yaml(value)
    except yaml.YAMLError:
        raise RequestError(f"--set {text}: '{value}' is not a value") from None


def merge(content: dict[str, Any], path: str, value: Any) -> None:
    """Sets one value, at 'section.key' or deeper, in a nested dict, making the levels on the way."""
    *parents, last = path.split(".")
    level = content
    for parent in parents:
        level = level.setdefault(parent, {})
        if not isinstance(level, dict):
            raise RequestError(f"'{path}' goes into '{parent}', which is a single value")
    level[last] = value


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: PyYAML takes 1e-3 for text."""


_Loader.yaml_implicit_resolvers = {
    **yaml.SafeLoader.yaml_implicit_resolvers,
    **{
        first: [("tag:yaml.org,2002:float", _FLOAT), *yaml.SafeLoader.yaml_implicit_resolvers.get(first, [])]
        for first in "+-0123456789."
    },
}


def parse_yaml(text: str) -> Any:
    """YAML without constructors of arbitrary objects, and with 1e-3 as a number."""
    return yaml.load(text, _Loader)
