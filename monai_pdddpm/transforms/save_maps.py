"""Save the maps of a case."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai.transforms import SaveImaged

from monai_pdddpm.data.case import case_of
from monai_pdddpm.data.writer import find_grid, write_nifti
from monai_pdddpm.transforms.label_values import named_values, to_values
from monai_pdddpm.utils.chosen_outputs import chosen_outputs

__all__ = ["MAP_FILES", "MapFile", "SaveImageMapsd"]


class MapFile(NamedTuple):
    """How a map is stored: the end of its file name, and its voxel type (None: the smallest unsigned type)."""

    postfix: str
    dtype: str | None


MAP_FILES = {
    "seg": MapFile("seg", None),
    "prob": MapFile("prob", "float32"),
    "members": MapFile("members", None),
    "entropy": MapFile("entropy", "float32"),
    "mutual_information": MapFile("mutual-information", "float32"),
    "variance": MapFile("variance", "float32"),
    "preseg_seg": MapFile("preseg", None),
}
_LABEL_MAPS = ("seg", "members", "preseg_seg")


class SaveImageMapsd(SaveImaged):
    """Save the maps of a case as ``<output_dir>/<case>/<case>_<postfix>.nii.gz`` on the grid of its scan.

    It is a ``SaveImaged`` and has its name, because MONAI Label removes such classes, and MONAI Deploy such names.

    Args:
        output_dir: folder of the results.
        labels: channel index -> name, the background included; stored in each header.
        label_values: the value in label maps of class 0, 1, 2, ...; None keeps the class numbers.
        outputs: maps to save, see :func:`monai_pdddpm.utils.chosen_outputs.chosen_outputs`; a map that a case does not
            have is skipped.

    Raises:
        UserError: if a name is unknown; on a call, if a map does not lie on a grid or the disk refuses a file.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        labels: Mapping[str, str],
        label_values: Sequence[int] | None = None,
        outputs: str | Sequence[str] = "default",
    ) -> None:
        chosen = chosen_outputs(outputs)
        keys = [key for key, file in MAP_FILES.items() if file.postfix in chosen]
        super().__init__(keys, output_dir=Path(output_dir), allow_missing_keys=True)
        self.output_dir = Path(output_dir)
        self.labels = named_values(labels, label_values)
        self.label_values = label_values

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files and return the data unchanged."""
        d = dict(data)
        case = case_of(d["image"].meta).name
        folder = self.output_dir / case
        folder.mkdir(parents=True, exist_ok=True)
        grid = None
        for key in self.key_iterator(d):
            array: Any = to_values(d[key], self.label_values) if key in _LABEL_MAPS else d[key]
            grid = grid or find_grid(array.meta, tuple(array.shape[1:4]))
            postfix, dtype = MAP_FILES[str(key)]
            write_nifti(folder / f"{case}_{postfix}.nii.gz", array, grid, dtype, self.labels)
        return d
