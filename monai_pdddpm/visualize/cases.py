"""Read the reports of an output folder, and write their numbers as a table for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_pdddpm.utils.atomic_write import json_or_empty
from monai_pdddpm.utils.provenance import FAILURES

Report = Mapping[str, Any]

FIRST_COLUMNS = ("case", "status")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a text that begins so


@dataclass(frozen=True)
class CaseRow:
    """A case of an output folder.

    Attributes:
        name: name of the case.
        report: its report; empty when the case has none that can be read.
        failure: why the case failed in the last run; empty when it did not.
    """

    name: str
    report: Report
    failure: str

    @property
    def unusual(self) -> list[str]:
        """Features outside the usual range, a sentence each."""
        return list(self.report.get("result", {}).get("unlike_usual", []))

    @property
    def notes(self) -> list[str]:
        """Remarks on the scan."""
        return list(self.report.get("notes", []))

    @property
    def frames(self) -> Sequence[Report]:
        """The results of each frame of a time series; one result for a single scan."""
        result = self.report.get("result", {})
        return result.get("frames", [result])

    @property
    def status(self) -> str:
        """``failed``, ``check`` for a case outside the usual range, or ``finished``."""
        return "failed" if self.failure else "check" if self.unusual else "finished"

    @property
    def seconds(self) -> float | None:
        """Duration of all stages."""
        return sum(self.report["seconds"].values()) if "seconds" in self.report else None


def read_cases(folder: Path) -> list[CaseRow]:
    """Return the finished and failed cases of an output folder, sorted by name."""
    failures = {
        path.stem: str(json_or_empty(path).get("error", "unknown reason")) for path in folder.glob(f"{FAILURES}/*.json")
    }
    reports = {
        path.parent.name: json_or_empty(path)
        for path in folder.glob("*/*_report.json")
        if path.name == f"{path.parent.name}_report.json"
    }
    broken = {name: f"{name}_report.json cannot be read; run this case again" for name in reports if not reports[name]}
    failures = broken | failures
    return [CaseRow(name, reports.get(name, {}), failures.get(name, "")) for name in sorted({*reports, *failures})]


def label_names(cases: Sequence[CaseRow]) -> list[str]:
    """Return the names of all structures, in the order of the reports."""
    return list(dict.fromkeys(name for case in cases for one in case.frames for name in one.get("volume_ml", {})))


def as_csv(cases: Sequence[CaseRow]) -> str:
    """Return a table with a row per case, or per frame of a time series, for a spreadsheet.

    The text begins with a byte order mark, by which spreadsheets recognize UTF-8. A text that a spreadsheet would run
    as a formula gets an apostrophe in front.
    """
    labels = label_names(cases)
    rows = [row for case in cases for row in _rows(case, labels)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with_frames = any(row["frame"] is not None for row in rows)
    columns = [column for column in columns if column != "frame" or with_frames]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_plain(column) for column in columns])
    writer.writerows([_plain(row[column]) for column in columns] for row in rows)
    return "\ufeff" + text.getvalue()


def _rows(case: CaseRow, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    image = case.report.get("image", "")
    series = "frames" in case.report.get("result", {})
    for number, result in enumerate(case.frames):
        row = {"case": case.name, "status": case.status, "frame": number if series else None}
        for label in labels:
            volume, structure = (result.get(part, {}).get(label, {}) for part in ("volume_ml", "structures"))
            low, high = volume.get("interval_90", (None, None))
            row |= {
                f"{label} volume (mL)": volume.get("segmentation"),
                f"{label} volume, 90 % interval, low (mL)": low,
                f"{label} volume, 90 % interval, high (mL)": high,
                f"{label} volume, smallest member (mL)": volume.get("members_min"),
                f"{label} volume, largest member (mL)": volume.get("members_max"),
                f"{label} expected Dice": structure.get("expected_dice"),
                f"{label} agreement of the members (Dice)": structure.get("agreement"),
                f"{label} mean entropy inside (nats)": structure.get("mean_entropy_inside_nats"),
            }
        dice = result.get("predicted_dice", {})
        low, high = dice.get("interval_90", (None, None))
        yield row | {
            "predicted Dice": dice.get("value"),
            "predicted Dice, 90 % interval, low": low,
            "predicted Dice, 90 % interval, high": high,
            "agreement of the members (Dice)": result.get("features", {}).get("agreement"),
            "mean entropy inside (nats)": result.get("mean_entropy_inside_nats"),
            "outside the usual range": "; ".join(result.get("unlike_usual", [])),
            "notes": "; ".join(case.notes),
            "failure": case.failure,
            "seconds": None if case.seconds is None else round(case.seconds, 3),
            "scan": image if isinstance(image, str) else "; ".join(map(str, image)),
        }


def _plain(value: Any) -> Any:
    """Return a cell that a spreadsheet shows as it is."""
    if not isinstance(value, str):
        return "" if value is None else value
    return ("'" * value.startswith(_FORMULA) + value).replace("\r", "\n")  # the writer quotes \n only
