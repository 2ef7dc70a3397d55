"""``python -m monai_pdddpm <command>``: make a bundle for a data set, check data, inspect bundles and results."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from monai_pdddpm import __version__
from monai_pdddpm.utils.errors import TRACEBACK_VARIABLE, user_message

_PROBLEM, _MISUSE = 1, 2
_DATASET = {"type": Path, "help": "dataset.json (Decathlon, nnU-Net), its folder, or a BIDS folder"}
_RESULTS = ("output_dir", {"type": Path, "help": "folder with one folder per case, as inference writes it"})
_BIDS = (
    ("--modalities", {"nargs": "+", "default": ["T1w"], "metavar": "SUFFIX", "help": "BIDS: channels (T1w)"}),
    ("--derivative", {"metavar": "FOLDER", "help": "BIDS: folder in derivatives/ with the label maps"}),
)
# command -> (module with run(), help, arguments)
COMMANDS: dict[str, tuple[str, str, Sequence[tuple[str, dict[str, Any]]]]] = {
    "create-bundle": (
        "monai_pdddpm.cli.create",
        "make a bundle for a data set",
        (
            ("name", {"help": "of the bundle, such as liver_ct_segmentation"}),
            ("--dataset", _DATASET | {"required": True}),
            ("--output_dir", {"type": Path, "default": Path("bundles"), "help": "folder for the bundle (bundles)"}),
            ("--memory", {"type": float, "metavar": "GiB", "help": "for training (this computer's)"}),
            ("--segmenter", {"type": Path, "metavar": "BUNDLE", "help": "bundle with a trained segmenter"}),
            ("--spacing", {"type": float, "nargs": 3, "metavar": "MM", "help": "voxel size (chosen by rule)"}),
            *_BIDS,
        ),
    ),
    "check": ("monai_pdddpm.cli.check", "find problems of a data set", (("dataset", _DATASET), *_BIDS)),
    "report": (
        "monai_pdddpm.cli.report",
        "write an HTML page for a folder of results",
        (_RESULTS, ("--overwrite", {"action": "store_true", "help": "replace an existing report"})),
    ),
    "verify": ("monai_pdddpm.cli.verify", "compare results with their checksums", (_RESULTS,)),
    "info": (
        "monai_pdddpm.cli.info",
        "show what a bundle does",
        (
            ("bundle", {"type": Path, "help": "folder of the bundle"}),
            ("--size", {"type": int, "nargs": "+", "metavar": "N", "help": "voxels of a scan: show its cost"}),
        ),
    ),
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that names the nearest command or option."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(_MISUSE)

    def refuse(self, kind: str, word: str, known: Sequence[str]) -> NoReturn:
        """Report an unknown word."""
        nearest = difflib.get_close_matches(word, known, 1)
        remedy = f"did you mean {nearest[0]}?" if nearest else "fix it"
        self.error(f"{kind}: found {word!r}, expected one of {', '.join(known)}; {remedy}")


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


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command line; exit with status 2 if it cannot be understood."""
    top: Any = parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        top.refuse("command", arguments[0], list(COMMANDS))
    options, unknown = top.parse_known_args(arguments)
    if unknown:
        flags = [flag for flag, _ in COMMANDS[options.command][2] if flag.startswith("--")]
        top.refuse("option", unknown[0], [*flags, "--quiet", "--json"])
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line; None takes ``sys.argv``.

    Returns:
        the exit code: 0 success, 1 a problem or an error, 2 wrong usage.
    """
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        for name in ("dataset", "bundle", "output_dir"):
            place: Path | None = getattr(options, name, None)
            if place is not None and options.command != "create-bundle" and not place.expanduser().exists():
                print(f"error: {name}: found no {place}, expected a file or folder; fix the path", file=sys.stderr)
                return _MISUSE
        result = import_module(COMMANDS[options.command][0]).run(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        message = user_message(error)
        if message is None or os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        print(f"error: {message}", file=sys.stderr)
        return _PROBLEM
    if options.json:
        print(json.dumps(result.content, ensure_ascii=False, indent=4))
    else:
        for line in (*result.problems, *(() if options.quiet else result.lines)):
            print(line)
    return _PROBLEM if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
