"""``report``: write an HTML page for a folder of results."""

from __future__ import annotations

import argparse

from monai_pdddpm.cli import Result
from monai_pdddpm.visualize.report import write_report


def run(options: argparse.Namespace) -> Result:
    """Run ``report``."""
    written = write_report(options.output_dir, overwrite=options.overwrite)
    return Result({"report": str(written)}, [f"written: {written}"])
