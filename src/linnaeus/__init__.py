"""Linnaeus: from a folder of images to a verified, deployed classifier.

The names below are imported when they are first used, so that `import linnaeus` costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linnaeus.app.api import load as load
    from linnaeus.app.api import train as train
    from linnaeus.core.classifier import Classifier as Classifier
    from linnaeus.core.errors import LinnaeusError as LinnaeusError
    from linnaeus.core.preprocess import Preprocess as Preprocess
    from linnaeus.models import MODELS as MODELS
    from linnaeus.models import create_model as create_model

__version__ = "0.1.0"

_HOMES = {
    "MODELS": "linnaeus.models",
    "Classifier": "linnaeus.core.classifier",
    "LinnaeusError": "linnaeus.core.errors",
    "Preprocess": "linnaeus.core.preprocess",
    "create_model": "linnaeus.models",
    "load": "linnaeus.app.api",
    "train": "linnaeus.app.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'linnaeus' has no attribute '{name}'")
    from importlib import import_module

    value: object = vars(import_module(_HOMES[name]))[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
