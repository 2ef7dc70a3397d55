"""Segmentation of 3D and 4D medical scans, with a map of where not to trust it."""

__version__ = "0.1.0"
