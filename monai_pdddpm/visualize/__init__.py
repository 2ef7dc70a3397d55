"""Pictures of a case, a page for a folder of cases, and files for viewers."""

from .overview import overview_figure, save_overview
from .report import write_report

__all__ = ["overview_figure", "save_overview", "write_report"]
