"""Save the maps of a case."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from monai.transforms import SaveImaged

from monai_pdddpm.data.case import case_of
from monai_pdddpm.data.writer import find_grid, write_nifti
from monai_pdddpm.transforms.label_values import named_values, to_values
from monai_pdddpm.utils.atomic_write import make_folder
from monai_pdddpm.utils.chosen_outputs import chosen_outputs

_WRITERS = 4  # files at once; each holds one map in 16 bits


class MapFile(NamedTuple):
    """How a map is stored: the end of its file name, and its highest value for K classes (None for label maps)."""

    postfix: str
    highest: Callable[[int], float] | None = None


MAP_FILES = {
    "seg": MapFile("seg"),
    "prob": MapFile("prob", lambda classes: 1.0),
    "members": MapFile("members"),
    "entropy": MapFile("entropy", math.log),
    "mutual_information": MapFile("mutual-information", math.log),
    "variance": MapFile("variance", lambda classes: 0.25),
    "preseg_seg": MapFile("preseg"),
}


class SaveImageMapsd(SaveImaged):
    """Save the maps of a case as ``<output_dir>/<case>/<case>_<postfix>.nii.gz`` on the grid of its scan.

    Label maps have the smallest unsigned type. The others are 16-bit integers with a slope in the header, within
    0.00003 of their values.

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
        super().__init__(keys, allow_missing_keys=True)
        self.output_dir = Path(output_dir)
        self.labels = named_values(labels, label_values)
        self.label_values = label_values

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files and return the data unchanged."""
        d = dict(data)
        case = case_of(d["image"].meta).name
        folder = self.output_dir / case
        make_folder(folder)
        keys: list[Any] = list(self.key_iterator(d))
        if not keys:
            return d
        grid = find_grid(d[keys[0]].meta, tuple(d[keys[0]].shape[1:4]))

        def write(key: str) -> None:
            postfix, highest = MAP_FILES[key]
            array: Any = d[key] if highest else to_values(d[key], self.label_values)
            path = folder / f"{case}_{postfix}.nii.gz"
            write_nifti(path, array, grid, labels=self.labels, highest=highest(len(self.labels)) if highest else None)

        with ThreadPoolExecutor(_WRITERS) as writers:  # compression leaves Python's lock
            list(writers.map(write, keys))
        return d
