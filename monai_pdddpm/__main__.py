"""``python -m monai_pdddpm <verb>``: make a bundle for your own data, check data, see what a bundle does."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai_pdddpm import __version__
from monai_pdddpm.utils.errors import TRACEBACK_VARIABLE, user_message

_FOUND, _MISUSE = 1, 2
_CODES = "Exit codes: 0 done, 1 something was found or went wrong (one line says what), 2 misuse."


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="say nothing but errors")
    common.add_argument("--json", action="store_true", help="answer as JSON on stdout")
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--modalities", nargs="+", default=["T1w"], metavar="SUFFIX", help="BIDS: channels (T1w)")
    data.add_argument("--derivative", metavar="FOLDER", help="BIDS: folder in derivatives/ with the label maps")

    top = argparse.ArgumentParser(
        "python -m monai_pdddpm",
        description="Make a bundle for your own data, check data, see what a bundle does.",
        epilog=_CODES,
    )
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="verb")

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str, parents: Sequence[Any]) -> Any:
        own = verbs.add_parser(name, help=text, description=text, epilog=_CODES, parents=[*parents, common])
        own.set_defaults(run=run)
        return own

    create = verb("create-bundle", _create, "look at your data set and make a bundle for it", [data])
    create.add_argument("name", help="of the bundle, such as liver_ct_segmentation")
    create.add_argument(
        "--dataset", type=Path, required=True, help="dataset.json (Decathlon, nnU-Net) or a BIDS folder"
    )
    create.add_argument("--output_dir", type=Path, default=Path("bundles"), help="folder for the bundle (bundles)")
    create.add_argument("--memory", type=float, metavar="GiB", help="to train in (this computer's)")
    create.add_argument("--segmenter", type=Path, metavar="BUNDLE", help="bundle whose network becomes the segmenter")
    create.add_argument("--spacing", type=float, nargs=3, metavar="MM", help="voxel size (chosen by rule)")
    check = verb("check", _check, "find broken pairs, label surprises and duplicates in a data set", [data])
    check.add_argument("dataset", type=Path, help="dataset.json (Decathlon, nnU-Net) or a BIDS folder")
    report = verb("report", _report, "write an HTML page on a folder of results", [])
    report.add_argument("output_dir", type=Path, help="folder with one folder a case, as inference writes it")
    report.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    verify = verb("verify", _verify, "compare the files of a folder of results with what was written", [])
    verify.add_argument("output_dir", type=Path, help="folder with one folder a case, as inference writes it")
    info = verb("info", _info, "say what a bundle does, from its JSON alone", [])
    info.add_argument("bundle", type=Path, help="folder of the bundle")
    info.add_argument("--size", type=int, nargs="+", metavar="N", help="voxels of a scan, for the cost of it")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        arguments: words of the command line, ``sys.argv`` by default.

    Returns:
        the exit code: 0 done, 1 something was found or went wrong, 2 misuse.
    """
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        message = user_message(error)
        if message is None or os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        print(f"error: {message}", file=sys.stderr)
        return _FOUND


def _answer(options: argparse.Namespace, content: Any, lines: Sequence[str]) -> None:
    if options.json:
        print(json.dumps(content, ensure_ascii=False, indent=4))
    elif not options.quiet:
        print("\n".join(lines))


def _create(options: argparse.Namespace) -> int:
    from monai_pdddpm.cli.create import create_bundle

    made = create_bundle(
        options.name,
        options.dataset,
        options.output_dir,
        options.memory,
        options.segmenter,
        options.spacing,
        options.modalities,
        options.derivative,
        progress=not options.quiet,
    )
    choices = [{"what": c.what, "value": c.value, "words": c.words, "reason": c.reason} for c in made.choices]
    content = {"bundle": str(made.folder), "choices": choices, "notes": made.notes, "commands": made.commands}
    notes = [f"note: {note}" for note in made.notes]
    _answer(options, content, [*map(str, made.choices), *notes, f"written: {made.folder}", "next:", *made.commands])
    return 0


def _check(options: argparse.Namespace) -> int:
    from monai_pdddpm.cli.check import check_dataset

    if not options.dataset.expanduser().exists():
        print(f"error: {options.dataset}: does not exist, expected a data set; fix the path", file=sys.stderr)
        return _MISUSE
    data, findings = check_dataset(options.dataset, options.modalities, options.derivative, not options.quiet)
    content = {"dataset": str(data.source), "form": data.form, "cases": len(data.cases)}
    content["findings"] = [vars(finding) for finding in findings]
    # what was found is the answer, so --quiet leaves out only that nothing was
    lines = [str(finding) for finding in findings]
    summary = (
        f"{len(data.cases)} cases ({data.form}), {len(data.labelled)} labelled: {len(findings) or 'nothing'} found"
    )
    if options.quiet and not options.json and lines:
        print("\n".join(lines))
    _answer(options, content, [*lines, summary])
    return _FOUND if findings else 0


def _report(options: argparse.Namespace) -> int:
    from monai_pdddpm.visualize.report import write_report

    if not options.output_dir.expanduser().is_dir():
        print(f"error: {options.output_dir}: no folder, expected one with results; fix the path", file=sys.stderr)
        return _MISUSE
    written = write_report(options.output_dir.expanduser(), overwrite=options.overwrite)
    _answer(options, {"report": str(written)}, [f"written: {written}"])
    return 0


def _verify(options: argparse.Namespace) -> int:
    from monai_pdddpm.cli.verify import verify

    if not options.output_dir.expanduser().is_dir():
        print(f"error: {options.output_dir}: no folder, expected one with results; fix the path", file=sys.stderr)
        return _MISUSE
    found = verify(options.output_dir.expanduser())
    summary = f"{found.cases} cases, {found.files} files: " + (
        f"{len(found.findings)} not as they were written" if found.findings else "all as they were written"
    )
    if options.quiet and not options.json and found.findings:  # what was found is the answer
        print("\n".join(found.findings))
    notes = [f"note: {note}" for note in found.notes]
    _answer(options, vars(found), [*found.findings, *notes, summary])
    return _FOUND if found.findings else 0


def _info(options: argparse.Namespace) -> int:
    from monai_pdddpm.cli.info import as_lines, bundle_info

    if not options.bundle.expanduser().is_dir():
        print(f"error: {options.bundle}: no folder, expected a bundle's; fix the path", file=sys.stderr)
        return _MISUSE
    found = bundle_info(options.bundle.expanduser(), options.size)
    _answer(options, found, as_lines(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
