"""Segmentation of 3D and 4D medical scans, with a map of where not to trust it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

from .utils import errors

if TYPE_CHECKING:
    from . import bundle, data

__all__ = ["__version__", "bundle", "data", "errors"]


def __getattr__(name: str) -> Any:
    # configurations call both by name; they are imported late, because both import torch and `info` does not need it
    if name in ("bundle", "data"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
