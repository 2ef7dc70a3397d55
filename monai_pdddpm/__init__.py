"""Segmentation of 3D and 4D medical scans, with a map of where not to trust it."""

__version__ = "0.1.0"

from . import bundle, data, errors  # what the bundles' configurations call by name

__all__ = ["__version__", "bundle", "data", "errors"]
