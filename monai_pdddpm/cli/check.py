"""``check``: find what would stop or spoil a training on a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from monai_pdddpm.cli import Result
from monai_pdddpm.cli.datasets import Finding
from monai_pdddpm.cli.formats import read_dataset

if TYPE_CHECKING:
    from monai_pdddpm.cli.fingerprint import CaseStatistics


def run(options: argparse.Namespace) -> Result:
    """Run ``check``: read every scan and label map of a data set, and report its problems."""
    data = read_dataset(options.dataset)
    findings = list(data.findings)
    missing = {finding.where for finding in findings if finding.kind == "missing-file"}
    read: list[CaseStatistics] = []
    for case in tqdm(data.cases, "reading scans", disable=options.quiet, unit="scan"):
        if missing.isdisjoint((case.case.file, case.label)):
            from monai_pdddpm.cli.fingerprint import read_case  # MONAI, which takes seconds to import

            statistics, found = read_case(case, data)
            findings += found
            read += [statistics] if statistics is not None else []
    values = {value for statistics in read for value in statistics.labels}
    for value, name in data.labels.items():
        if value and read and value not in values:
            findings.append(Finding("label-unused", f"label {value} ({name})", "no label map has it; remove the label"))
    findings += _duplicates(read)
    content = {"dataset": str(data.source), "form": data.form, "cases": len(data.cases)}
    content["findings"] = [vars(finding) for finding in findings]
    problems = f"{len(findings)} problems" if findings else "no problem"
    summary = f"{len(data.cases)} cases ({data.form}), {len(data.labeled)} labeled: {problems} found"
    return Result(content, [summary], list(map(str, findings)))


def _duplicates(cases: Sequence[CaseStatistics]) -> list[Finding]:
    """Find cases with the same voxels as an earlier case."""
    first: dict[str, CaseStatistics] = {}
    findings = []
    for case in cases:
        other = first.setdefault(case.content, case)
        if other is not case:
            keys = sorted({case.case.list_key, other.case.list_key})
            where = f", one for {' and one for '.join(keys)}" if len(keys) > 1 else ""
            labels = "" if case.labels == other.labels else ", with other labels"
            text = f"has the same voxels as {other.case.case.name}{labels}{where}; keep one of them"
            findings.append(Finding("duplicate", case.case.case.name, text))
    return findings
