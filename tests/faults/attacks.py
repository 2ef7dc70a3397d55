"""Attacks by files: checkpoints, data sets, bundles and archives from somebody who wants in, and what becomes of each.

Each attack would leave a mark if it were executed, or a file outside of the folder that it was let into.

    python tests/faults/attacks.py                   # print the table
    python tests/faults/attacks.py --write           # put the table into docs/reliability.md
    python tests/faults/attacks.py --without-server  # leave out the requests to the MONAI Label app

The exit code is 1 when anything was executed, written outside, or not refused with one line.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from attacks_by_archives import ARCHIVES
from attacks_by_bundles import BUNDLES
from attacks_by_checkpoints import CHECKPOINTS
from attacks_by_data import DATA
from attacks_payload import PAYLOADS
from monai.apps import utils as monai_utils
from monai_pdddpm.errors import user_message

DOCS = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"
ATTACKS = [*CHECKPOINTS, *DATA, *BUNDLES, *ARCHIVES]


@dataclass(frozen=True)
class Outcome:
    """What became of an attack.

    Attributes:
        group: what it comes by.
        attack: what it would do.
        place: what was asked to take it.
        executed: it left its mark.
        outside: it wrote beside the folder that it was let into.
        line: the one line that refused it, or what was done instead.
        refused: whether it was refused.
        expected: "refused", or "harmless" where there is nothing to refuse.
    """

    group: str
    attack: str
    place: str
    executed: bool
    outside: bool
    line: str
    refused: bool
    expected: str

    @property
    def held(self) -> bool:
        """Tell whether nothing came of it, and where something had to be refused that one line says so."""
        told = self.refused and "; " in self.line and "\n" not in self.line
        return not self.executed and not self.outside and (told or self.expected == "harmless")


def tried(group: str, attack: str, place: str, run: Callable[[Path, Path], str | None], expected: str) -> Outcome:
    """Run an attack in an empty folder; ``run(folder, mark)`` returns what was done, or raises."""
    with tempfile.TemporaryDirectory() as scratch:
        outer = Path(scratch).resolve()
        folder, mark = outer / "inner" / "folder", outer / "executed"
        folder.mkdir(parents=True)
        streams = StringIO()
        refused, line = False, ""
        try:
            with redirect_stdout(streams), redirect_stderr(streams):
                line = run(folder, mark) or ""
        except Exception as error:  # how it is told is what is looked at
            refused, line = True, user_message(error) or _of_monai(error)
        outside = {path.name for path in outer.iterdir()} - {"inner", "executed"}
        outside |= {path.name for path in folder.parent.iterdir()} - {"folder"}
        for path, name in ((f"{folder}/", ""), (str(folder), "<folder>"), (f"{outer}/", "<outside>/")):
            line = line.replace(path, name)
        return Outcome(group, attack, place, mark.exists(), bool(outside), line, refused, expected)


def _of_monai(error: Exception) -> str:
    """Return MONAI's own reason not to unpack an archive; all else than that is not one line for a user."""
    by_monai = isinstance(error, ValueError) and monai_utils.__name__ in str(_last_module(error))
    return f"{error}; refused by MONAI" if by_monai else f"{type(error).__name__}: {error}"


def _last_module(error: BaseException) -> str | None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else trace.tb_frame.f_globals.get("__name__")


def outcomes() -> Iterator[Outcome]:
    """Try all attacks but those on a server."""
    for group, attack, place, run, expected in ATTACKS:
        yield tried(group, attack, place, run, expected)


def table(found: list[Outcome]) -> str:
    """Return the outcomes in Markdown, alike ones in one row, with their sums."""
    executed, outside, refused = (sum(getattr(one, key) for one in found) for key in ("executed", "outside", "refused"))
    rows: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        what = (
            "EXECUTED"
            if one.executed
            else "WRITTEN OUTSIDE"
            if one.outside
            else "refused"
            if one.refused
            else "harmless"
        )
        line = one.line if len(one.line) < 200 else f"{one.line[:200]}..."
        rows.setdefault((one.group, one.place, f"{what}: {line}"), []).append(one.attack)
    text = f"{len(found)} attacks: {executed} executed, {outside} wrote outside, {refused} refused with a reason.\n\n"
    text += f"The checkpoints: {'; '.join(PAYLOADS)}.\n\n"
    text += "| by | attack | place | what becomes of it |\n|---|---|---|---|\n"
    for (group, place, what), attacks in rows.items():
        named = "each of the checkpoints" if attacks == list(PAYLOADS) else "; ".join(attacks)
        cells = [group, named, place, what]
        text += (
            "| "
            + " | ".join(re.sub(r"([|<*_])", r"\\\1", cell) if "`" not in cell else cell for cell in cells)
            + " |\n"
        )
    return text


def main() -> int:
    """Try all attacks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    parser.add_argument("--without-server", action="store_true", help="leave out what needs MONAI Label")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    found = list(outcomes())
    if not arguments.without_server:
        from attacks_on_server import server_outcomes

        found += server_outcomes()
    print(table(found))
    wrong = [one for one in found if not one.held]
    for one in wrong:
        print(f"NOT HELD: {one.attack}, {one.place}: {one.line}")
    if arguments.write:
        text = DOCS.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        DOCS.write_text(f"{before}{BEGIN}\n\n{table(found)}\n{END}{after}", encoding="utf-8")
    return bool(wrong)


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    sys.exit(main())
