"""``python -m monai_pdddpm <command>``: make a bundle for a data set, check data, inspect bundles and results."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from monai_pdddpm import __version__
from monai_pdddpm.utils.errors import (
    TRACEBACK_VARIABLE,
    escape_letters,
    friendly_errors,
    stop_code,
    stop_message,
    user_message,
)
from monai_pdddpm.utils.paths import with_home


def path(text: str) -> Path:
    """Return a path of the command line."""
    return Path(with_home(text))


def existing(text: str) -> Path:
    """Return a path of the command line that exists."""
    path = Path(with_home(text))
    if not path.exists():
        raise argparse.ArgumentTypeError(f"found no {path}, expected a file or folder; fix the path")
    return path


_DATASET = {"type": existing, "help": "dataset.json (Decathlon, nnU-Net), its folder, or a table .csv"}
_RESULTS = ("output_dir", {"type": existing, "help": "folder with one folder per case, as inference writes it"})
# command -> (module with run(), help, arguments)
COMMANDS: dict[str, tuple[str, str, Sequence[tuple[str, dict[str, Any]]]]] = {
    "demo": (
        "monai_pdddpm.cli.demo",
        "generate a phantom and segment it",
        (("--output_dir", {"type": Path, "default": Path("pdddpm_demo"), "help": "new folder (pdddpm_demo)"}),),
    ),
    "bundles": ("monai_pdddpm.cli.bundles", "list the bundles of this release", ()),
    "create-bundle": (
        "monai_pdddpm.cli.create",
        "make a bundle for a data set",
        (
            ("name", {"help": "of the bundle, such as liver_ct_segmentation"}),
            ("--dataset", _DATASET | {"required": True}),
            ("--output_dir", {"type": path, "default": Path("bundles"), "help": "folder for the bundle (bundles)"}),
            ("--memory", {"type": float, "metavar": "GiB", "help": "for training (this computer's)"}),
            ("--segmenter", {"type": existing, "metavar": "BUNDLE", "help": "bundle with a trained segmenter"}),
            (
                "--presegmentations",
                {"type": existing, "metavar": "DIR", "help": "pre-segmentations of the cases, in place of a segmenter"},
            ),
            (
                "--nnunet",
                {"type": existing, "metavar": "RESULTS", "help": "folder of a trained nnU-Net with its fold_k"},
            ),
            ("--spacing", {"type": float, "nargs": 3, "metavar": "MM", "help": "voxel size (chosen by rule)"}),
        ),
    ),
    "train-folds": (
        "monai_pdddpm.cli.train_folds",
        "train a segmenter for each fold, and write out-of-fold pre-segmentations",
        (
            ("bundle", {"type": existing, "help": "folder of the bundle"}),
            ("--folds", {"type": int, "default": 5, "metavar": "N", "help": "number of folds (5)"}),
            ("--dataset_dir", {"type": existing, "metavar": "DIR", "help": "labeled cases (the bundle's)"}),
            ("--scans", {"type": existing, "metavar": "DIR", "help": "new scans for the ensemble of all folds"}),
            ("--calibrate", {"action": "store_true", "help": "train a denoiser per fold, and calibrate on all cases"}),
            ("--max_epochs", {"type": int, "metavar": "N", "help": "of each training (the bundle's)"}),
        ),
    ),
    "calibrate-files": (
        "monai_pdddpm.cli.calibrate_files",
        "calibrated maps from the probabilities that networks wrote",
        (
            ("probabilities", {"type": existing, "nargs": "+", "metavar": "DIR", "help": "folder of each network"}),
            ("--dataset", _DATASET | {"required": True}),
            ("--output_dir", {"type": path, "required": True, "help": "new folder for the results"}),
        ),
    ),
    "check": ("monai_pdddpm.cli.check", "find problems of a data set", (("dataset", _DATASET),)),
    "report": (
        "monai_pdddpm.cli.report",
        "write an HTML page for a folder of results",
        (_RESULTS, ("--overwrite", {"action": "store_true", "help": "replace an existing report"})),
    ),
    "verify": ("monai_pdddpm.cli.verify", "compare results with their checksums", (_RESULTS,)),
    "info": (
        "monai_pdddpm.cli.info",
        "show what a bundle does",
        (("bundle", {"type": existing, "help": "folder of the bundle"}),),
    ),
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    epilog = "Exit codes: 0 success, 1 a problem or an error, 2 wrong usage."
    top = _Parser("python -m monai_pdddpm", description=(__doc__ or "").partition(": ")[2], epilog=epilog)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for name, (_, text, arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, epilog=epilog, allow_abbrev=False)
        for flag, options in arguments:
            command.add_argument(flag, **options)
        command.add_argument("--quiet", action="store_true", help="print problems and errors only")
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line; None takes ``sys.argv``.

    Returns:
        the exit code: 0 success, 1 a problem or an error, 130 stopped by Ctrl-C, 143 by SIGTERM.

    Raises:
        SystemExit: with code 2 if the command line is wrong.
    """
    escape_letters()
    friendly_errors()
    options = parser().parse_args(arguments)
    try:
        result = import_module(COMMANDS[options.command][0]).run(options)
    except KeyboardInterrupt as stop:
        print(stop_message(stop), file=sys.stderr)
        return stop_code(stop)
    except Exception as error:
        message = user_message(error)
        if message is None or os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(result.content, indent=4))  # ASCII: valid in each encoding
    else:
        for line in (*result.problems, *(() if options.quiet else result.lines)):
            print(line)
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
