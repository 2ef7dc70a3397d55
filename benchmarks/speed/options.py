"""Options that the scripts of this folder share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from monai_pdddpm.bundle import pick_device
from monai_pdddpm.utils.errors import UserError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUNDLES = ROOT / "bundles"


def shared_options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that knows the options of every script, to which a script adds its own."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--dataset_dir", type=Path, help="labelled scans of the bundle; a phantom is made without")
    options.add_argument("--bundle", type=Path, help="hippocampus with --dataset_dir, else phantom")
    options.add_argument("--device", default=str(pick_device()), help="a GPU when there is one")
    options.add_argument("--overrides", default="{}", help="changes of the bundle's configuration, as JSON")
    options.add_argument("--work", type=Path, default=ROOT / "runs" / "speed", help="what was measured")
    options.add_argument("--output_dir", type=Path, default=HERE, help="for tables and figures")
    options.add_argument("--again", action="store_true", help="measure anew what was measured before")
    options.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)  # what a process of its own measures
    options.add_argument("--job_file", type=Path, help=argparse.SUPPRESS)
    return options


def parsed(options: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what was given, with whole paths, a bundle and the overrides as a dictionary.

    Raises:
        UserError: when the overrides are no JSON.
    """
    args = options.parse_args(argv)
    default = "hippocampus_mri_segmentation" if args.dataset_dir else "phantom_segmentation"
    args.bundle = (args.bundle or BUNDLES / default).resolve()
    args.dataset_dir = args.dataset_dir and args.dataset_dir.resolve()
    args.work, args.output_dir = args.work.resolve(), args.output_dir.resolve()
    try:
        args.overrides = json.loads(args.overrides)
    except ValueError as error:
        raise UserError(f"overrides: found {args.overrides!r}, expected JSON ({error}); fix --overrides") from error
    return args
