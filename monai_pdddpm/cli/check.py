"""``check``: what would stop a training or spoil it, found before hours are spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from monai_pdddpm.cli.datasets import DataSet, Finding, read_dataset
from monai_pdddpm.cli.fingerprint import Facts, Reader, look
from monai_pdddpm.data.case import present_files

__all__ = ["check_dataset", "duplicates"]


def check_dataset(
    path: Path, modalities: Sequence[str] = ("T1w",), derivative: str | None = None, progress: bool = True
) -> tuple[DataSet, list[Finding]]:
    """Read every scan and label map of a data set and tell what is wrong.

    Args:
        path: see :func:`monai_pdddpm.cli.datasets.read_dataset`.
        modalities: likewise.
        derivative: likewise.
        progress: show a bar.

    Raises:
        UserError: when there is no data set of a known form.
    """
    data = read_dataset(path, modalities, derivative)
    findings, facts, reader = list(data.findings), [], Reader(data)
    for case in tqdm(data.cases, "reading the scans", disable=not progress, unit="scan"):
        label_there = case.label is None or Path(case.label).is_file()
        if any(present_files(case.image)) and label_there:  # else it is among the findings already
            fact, found = look(case, data, reader)
            findings += found
            facts += [fact] if fact is not None else []
    return data, [*findings, *_unused(data, facts), *duplicates(facts)]


def _unused(data: DataSet, facts: Sequence[Facts]) -> list[Finding]:
    seen = {value for fact in facts for value in fact.labels}
    return [
        Finding("label-unused", f"label {value} ({name})", "is in no label map; take it out, or find out where it went")
        for value, name in data.labels.items()
        if value and facts and value not in seen
    ]


def duplicates(facts: Sequence[Facts]) -> list[Finding]:
    """Tell which cases have the same image, voxel for voxel."""
    groups = defaultdict(list)
    for fact in facts:
        groups[fact.content].append(fact)
    findings = []
    for same in groups.values():
        first, *others = same
        for other in others:
            split = {first.case.section, other.case.section}
            where = f", one for {' and one for '.join(sorted(split))}" if len(split) > 1 else ""
            labels = "" if first.labels == other.labels else ", with other labels"
            text = f"has the same image as {first.case.name}{labels}{where}; keep one of them"
            findings.append(Finding("duplicate", other.case.name, text))
    return findings
