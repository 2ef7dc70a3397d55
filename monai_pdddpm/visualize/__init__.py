"""What people look at: a case or a folder of cases at a glance, files for viewers, and how a training went."""

from typing import Any

from .overview import overview_figure, save_overview
from .report import write_report

__all__ = ["curves_figure", "overview_figure", "read_series", "save_overview", "write_report"]


def __getattr__(name: str) -> Any:
    # imported late, so that `python -m monai_pdddpm.visualize.curves` finds its module not yet loaded
    if name in ("curves_figure", "read_series"):
        from . import curves

        return getattr(curves, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
