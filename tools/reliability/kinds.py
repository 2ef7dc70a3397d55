"""A kind of input: how it is made, the expected outcome, and the memory that reading it may take."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from good_scan import Make

MEMORY = 1 << 29  # bytes of address space
NAN, INF = float("nan"), float("inf")
# nibabel's affine without sform and qform: the center at the origin, the first axis to the left
PLAIN = nib.affines.from_matvec(np.diag([-1.0, 1.5, 2.0]), [6.5, -8.25, -9.0])


@dataclass(frozen=True)
class Kind:
    """One kind of valid, unusual or invalid input.

    Attributes:
        group: group in the table.
        name: description of the input.
        make: writes the input into a folder that contains a valid scan, "good.nii.gz".
        outcome: expected outcome, a key of `bad_input.OUTCOMES`.
        expected: returns the voxels and the affine to be read, if they differ from the valid scan.
        options: options of `LoadImageScand` and `CheckImaged`, if the network takes more than one channel.
        dataset: path below the folder that is given as dataset_dir.
        beside: a valid scan lies in the folder and must be read; "series" for a DICOM series.
        as_nobody: read it without the rights of root.
    """

    group: str
    name: str
    make: Make
    outcome: str = "refused"
    expected: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    dataset: str = ""
    beside: bool | str = True
    as_nobody: bool = False


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let this process take `MEMORY` more than it has."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def kinds_of(group: str) -> Callable[..., Kind]:
    """Return a function that makes kinds of one group."""
    return lambda *args, **options: Kind(group, *args, **options)
