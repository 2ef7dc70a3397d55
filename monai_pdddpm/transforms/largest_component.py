"""Keep the largest connected part of each structure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy.ndimage import find_objects, label

from monai_pdddpm.transforms.outputs import frames_of


class LargestComponentd(MapTransform):
    """Remove all but the largest connected part of each label, as nnU-Net's postprocessing does.

    Voxels that share a face, an edge or a corner are connected. The frames of a time series are treated one by one.
    MONAI's ``KeepLargestConnectedComponentd`` needs scikit-image, and connects frames.

    Args:
        keys: the keys of label maps, (1, X, Y, Z) or (1, X, Y, Z, T) with frames.
        keep: False turns the transform off.
    """

    def __init__(self, keys: KeysCollection, keep: bool = True) -> None:
        super().__init__(keys)
        self.keep = keep

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with smaller label maps."""
        d = dict(data)
        for key in self.key_iterator(d) if self.keep else ():
            maps = d[key].cpu().numpy()[0].copy()
            for frame in np.moveaxis(maps, -1, 0) if frames_of(d) > 1 else [maps]:
                remove_small_components(frame)
            d[key] = d[key].clone()
            d[key][0] = torch.from_numpy(maps)
        return d


def remove_small_components(label_map: np.ndarray) -> None:
    """Set all but the largest connected part of each label to 0, in place; of equal parts the first one is kept."""
    for value, box in enumerate(find_objects(label_map.astype(int)), start=1):
        if box is not None:
            part = label_map[box]
            components, count = label(part == value, np.ones((3,) * part.ndim))
            if count > 1:
                sizes = np.bincount(components.ravel())[1:]
                part[(components > 0) & (components != 1 + sizes.argmax())] = 0
