"""What a kind of input is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from spoil import Make

Look = Callable[[Path], tuple[str, str]]
NAN, INF = float("nan"), float("inf")
# what is left without sform and qform: the middle at the origin, and the first axis to the left
PLAIN = nib.affines.from_matvec(np.diag([-1.0, 1.5, 2.0]), [6.5, -8.25, -9.0])


@dataclass(frozen=True)
class Kind:
    """One way to be bad or odd.

    Attributes:
        group: heading in the table.
        name: what is wrong, in words.
        make: writes it into a folder that holds the good scan.
        outcome: what has to become of it.
        says: what the line or the note has to say.
        expected: voxels and affine to be read, if not those of the good scan.
        options: what the network takes, if not one channel.
        dataset: part of the folder that is given as dataset_dir.
        beside: a good scan lies in the folder and has to be done; "series" for a DICOM series.
        as_nobody: it is looked at without the superuser's rights.
        look: looks at the folder in the place of listing and reading scans.
    """

    group: str
    name: str
    make: Make
    outcome: str
    says: str = ""
    expected: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    dataset: str = ""
    beside: bool | str = True
    as_nobody: bool = False
    look: Look | None = None


def kind(group: str) -> Callable[..., Kind]:
    return lambda *args, **options: Kind(group, *args, **options)
