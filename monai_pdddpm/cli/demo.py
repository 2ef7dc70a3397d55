"""``demo``: generate a phantom and segment it with the bundle that the package carries."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys

from monai_pdddpm.cli import Result
from monai_pdddpm.cli.shipped import bundles
from monai_pdddpm.data.phantom import write_phantom
from monai_pdddpm.utils.checks import check_output_dir
from monai_pdddpm.utils.errors import UserError


def run(options: argparse.Namespace) -> Result:
    """Run ``demo``.

    Raises:
        UserError: if the folder exists or cannot be written.
    """
    folder = options.output_dir.expanduser().absolute()
    if folder.exists():
        raise UserError(f"--output_dir: found {folder}, expected no such folder; remove it, or choose another name")
    check_output_dir(folder.parent)
    data = write_phantom(folder / "data", train=0, validation=0, test=1, annotations=4)
    config, results = bundles() / "phantom_segmentation" / "configs" / "inference.json", folder / "results"
    words = ["-m", "monai.bundle", "run", "inference", "--config_file", str(config)]
    words += ["--dataset_dir", str(data), "--output_dir", str(results)]
    log = subprocess.DEVNULL if options.quiet else sys.stderr  # --json promises JSON on standard output
    code = subprocess.run([sys.executable, *words], stdout=log, check=False).returncode
    command, page = shlex.join(["python", *words]), results / "index.html"
    lines = [f"command: {command}", f"scan, annotations and true probabilities: {data}", f"open in a browser: {page}"]
    content = {"command": command, "data": str(data), "results": str(results), "page": str(page)}
    return Result(content, lines, [f"{command}: ended with exit code {code}"] if code else [])
