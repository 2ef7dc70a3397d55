"""Dictionary transforms that MONAI lacks."""

from .spacing import Spacingd

__all__ = ["Spacingd"]
