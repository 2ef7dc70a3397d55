"""MONAI inferers: how a network is called on whole volumes."""

from .autocast import AutocastInferer

__all__ = ["AutocastInferer"]
