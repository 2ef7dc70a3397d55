"""The files that inference writes for each case, and the user's choice among them."""

from __future__ import annotations

from collections.abc import Sequence

from monai_pdddpm.utils.errors import UserError

_MAPS = ("seg", "prob", "members", "entropy", "mutual-information", "variance", "preseg")
DEFAULT_OUTPUTS = (*_MAPS, "overview", "viewer", "scene", "page")
OUTPUTS = (*DEFAULT_OUTPUTS, "slices", "seg-nrrd", "dicom-seg")


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
