"""The files that inference writes for each case, and the user's choice among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from monai_pdddpm.utils.errors import UserError

_MAPS = ("seg", "prob", "members", "entropy", "mutual-information", "variance", "preseg")
DEFAULT_OUTPUTS = (*_MAPS, "overview", "viewer", "scene", "page")
OUTPUTS = (*DEFAULT_OUTPUTS, "slices", "seg-nrrd", "dicom-seg")
_ENDING = re.compile(
    rf"_(({'|'.join(_MAPS)})\.nii\.gz|overview\.png|viewer\.html|scene\.mrml|seg\.ctbl|seg_itksnap\.txt|slices\.csv"
    r"|seg(_frame-\d+)?\.seg\.nrrd|seg\.dcm|report\.json)"
)


def is_case_file(path: Path) -> bool:
    """Return whether a path is named as a file that inference writes for a case, ``<case>/<case>_<ending>``."""
    case = path.parent.name
    return path.name.startswith(case) and _ENDING.fullmatch(path.name, len(case)) is not None


def chosen_outputs(outputs: str | Sequence[str]) -> frozenset[str]:
    """Return the names of the files to write.

    Args:
        outputs: names of `OUTPUTS`, as a list or with commas between; ``default`` stands for `DEFAULT_OUTPUTS`. The
            label map ``seg`` is always written.

    Raises:
        UserError: if a name is unknown.
    """
    listed = outputs.split(",") if isinstance(outputs, str) else outputs
    try:
        names = {str(name).strip().replace("_", "-") for name in listed}
    except TypeError:
        names = {str(outputs)}
    if unknown := sorted(names - {"default", *OUTPUTS}):
        raise UserError(
            f"outputs: found {unknown[0]!r}, expected some of {', '.join(OUTPUTS)}; separate them by commas, "
            "for example --outputs default,dicom-seg"
        )
    return frozenset({"seg", *names - {"default"}, *(DEFAULT_OUTPUTS if "default" in names else ())})
