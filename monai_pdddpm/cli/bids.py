"""BIDS data sets: anatomical scans of subjects and sessions, with label maps in ``derivatives``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from monai_pdddpm.cli.datasets import DataSet, Finding, LabeledCase, check_name, label_names
from monai_pdddpm.data.case import Case
from monai_pdddpm.utils.errors import UserError

_ENTITY = re.compile(r"([A-Za-z]+)-([^_.]+)")


def read_bids(root: Path, modalities: Sequence[str], derivative: str | None) -> DataSet:
    """Read a BIDS data set; see :func:`monai_pdddpm.cli.formats.read_dataset`.

    A scan belongs to the label map ``*dseg.nii*``, or else ``*mask.nii*``, that contradicts none of its entities.

    Raises:
        UserError: if the derivative does not exist, or there are no scans.
    """
    maps = root / "derivatives" / (derivative or "*")
    if derivative and not maps.is_dir():
        raise UserError(f"--derivative: found no folder {maps}, expected one; name a folder in {maps.parent}")
    cases: list[LabeledCase] = []
    findings: list[Finding] = []
    for folder in sorted({*root.glob("sub-*/anat"), *root.glob("sub-*/ses-*/anat")}):
        relative = folder.relative_to(root).as_posix()
        scans = _scans(folder, modalities)
        if not scans:
            findings.append(Finding("missing-modality", relative, f"found no scan *_{modalities[0]}.nii.gz; add it"))
        label_maps = sorted(root.glob(f"derivatives/{derivative or '*'}/{relative}/[!.]*.nii*"))
        for files in scans:
            case = Case.of(files)
            entities = dict(_ENTITY.findall(case.name))
            fitting = [f for f in label_maps if all(entities.get(k, v) == v for k, v in _ENTITY.findall(f.name))]
            kinds = ([f for f in fitting if f.name.split(".")[0].endswith(kind)] for kind in ("dseg", "mask"))
            found = next((files for files in kinds if files), [])
            if len(found) > 1:
                names = ", ".join(str(file.relative_to(root)) for file in found[:3])
                text = f"found several label maps, {names}; choose with --derivative, or keep one"
                findings.append(Finding("no-label", case.name, text))
            else:
                label = str(found[0]) if found else None
                cases.append(LabeledCase(case, label, "training" if found else "test", relative.split("/")[0]))
    if not cases:
        raise UserError(
            f"{root}: found no usable scan, expected sub-01/anat/sub-01_{modalities[0]}.nii.gz, and one label "
            "map for each; set --modalities or --derivative"
        )
    channels = tuple(check_name(name, "--modalities") for name in modalities)
    labels = _labels(root, derivative or "*")
    return DataSet("bids", root, channels, labels, tuple(cases), tuple(findings), {"title": root.name})


def _scans(folder: Path, modalities: Sequence[str]) -> list[list[str | None]]:
    """Return the files of each scan of the first modality, with those of the other modalities."""
    files = {m: sorted(map(str, folder.glob(f"[!.]*_{m}.nii*"))) for m in modalities}
    scans: list[list[str | None]] = []
    for first in files[modalities[0]]:
        stem = first.rpartition(modalities[0])[0]
        others = ([f for f in files[m] if f.startswith(f"{stem}{m}.")] or files[m] for m in modalities[1:])
        scans.append([first, *(found[0] if found else None for found in others)])
    return scans


def _labels(root: Path, derivative: str) -> dict[int, str]:
    """Return the labels of the first ``*dseg.tsv``, or nothing."""
    places = (f"derivatives/{derivative}/*dseg.tsv", "*dseg.tsv", f"derivatives/{derivative}/sub-*/anat/*dseg.tsv")
    files = [file for place in places for file in sorted(root.glob(place))]
    if not files:
        return {}
    header, *rows = [line.split("\t") for line in files[0].read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not {"index", "name"} <= set(header):
        raise UserError(f"{files[0]}: found the columns {header}, expected index and name; fix the header")
    return label_names(files[0], ((row[header.index("index")], row[header.index("name")]) for row in rows))
