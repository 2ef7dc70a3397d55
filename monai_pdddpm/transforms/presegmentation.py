"""Pre-segmentations from disk in place of the segmenter's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform, SpatialResample

from monai_pdddpm.data.case import case_of
from monai_pdddpm.data.presegmentations import find_presegmentation, presegmentation_root, read_presegmentation
from monai_pdddpm.transforms.softening import softened


class LoadPresegmentationd(MapTransform):
    """Add ``presegmentation``, the probabilities that another program wrote for the scan, on the image's grid.

    Probabilities are resampled with linear interpolation; label maps and masks are softened first, see
    :func:`monai_pdddpm.transforms.softening.softened`. The file is kept as ``presegmentation_file`` in the image's
    metadata. It belongs after the preprocessing of the image.

    Args:
        folder: of the pre-segmentations, see :func:`monai_pdddpm.data.presegmentations.find_presegmentation`; empty
            leaves the segmenter to the network. The channels of several folders follow one another.
        labels: value in label maps -> name, with the background first.
        keys: the key of the image, (C, X, Y, Z), loaded by :class:`monai_pdddpm.data.LoadImageScand`.

    Raises:
        UserError: when there is no such folder; on a call, when a scan has no file, or one that does not fit it.
    """

    def __init__(self, folder: str | Sequence[str], labels: Mapping[str, str], keys: Any = "image") -> None:
        super().__init__(keys)
        folders = [folder] if isinstance(folder, str) else folder
        self.folders = [presegmentation_root(one) for one in folders if one]
        self.labels = {int(value): name for value, name in labels.items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with ``presegmentation``, (folders x K, X, Y, Z) float32, added."""
        d = dict(data)
        for key in self.key_iterator(d) if self.folders else ():
            image = d[key]
            paths = [find_presegmentation(folder, case_of(image.meta).name) for folder in self.folders]
            d["presegmentation"] = torch.cat([self._on_grid(path, image) for path in paths])
            image.meta["presegmentation_file"] = str(paths[0])
        return d

    def _on_grid(self, path: Path, image: MetaTensor) -> torch.Tensor:
        """Return the probabilities of a file on the grid of an image, (K, X, Y, Z)."""
        shape = tuple(int(size) for size in image.meta["spatial_shape"])
        affine = np.asarray(image.meta["original_affine"], dtype=np.float64)
        voxels, soft = read_presegmentation(path, shape, affine, self.labels)
        if not soft:
            voxels = softened(voxels[0], len(self.labels), [float(size) for size in affine_to_spacing(affine)])
        placed: Any = MetaTensor(voxels, affine=torch.as_tensor(affine))
        on_grid: Any = SpatialResample()(placed, dst_affine=image.affine, spatial_size=image.shape[1:])
        return on_grid.as_tensor()
