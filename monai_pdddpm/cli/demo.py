"""``demo``: generate a phantom and segment it with the bundle that the package carries."""

from __future__ import annotations

import argparse
import contextlib
import sys

from monai.bundle import ConfigWorkflow

from monai_pdddpm.cli import Result
from monai_pdddpm.cli.shipped import bundles
from monai_pdddpm.data import write_phantom
from monai_pdddpm.utils.checks import check_output_dir
from monai_pdddpm.utils.errors import UserError


def run(options: argparse.Namespace) -> Result:
    """Run ``demo``.

    Raises:
        UserError: if the folder exists or cannot be written.
    """
    folder, bundle = options.output_dir.expanduser().absolute(), bundles() / "phantom_segmentation"
    if folder.exists():
        raise UserError(f"--output_dir: found {folder}, expected no such folder; remove it, or choose another name")
    check_output_dir(folder.parent)
    data = write_phantom(folder / "data", train=0, validation=0, test=1, series=0, annotations=4, progress=False)
    with contextlib.redirect_stdout(sys.stderr):  # of a run's log; --json promises JSON on standard output
        workflow = ConfigWorkflow(
            str(bundle / "configs" / "inference.json"),
            workflow_type="inference",
            bundle_root=str(bundle),
            dataset_dir=str(data),
            output_dir=str(folder / "results"),
        )
        workflow.initialize()
        workflow.run()
    page = folder / "results" / "index.html"
    lines = [f"scan, annotations and true probabilities: {data}", f"maps: {page.parent}", f"open in a browser: {page}"]
    return Result({"data": str(data), "results": str(page.parent), "page": str(page)}, lines)
