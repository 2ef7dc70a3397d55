"""A new phantom for every training sample."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, Randomizable

from monai_pdddpm.data.phantom_distribution import make_phantom_scan


class RandPhantomd(Randomizable, MapTransform):
    """Replace image and label by a new phantom and one annotation of it.

    A network that sees a fixed set of phantoms memorizes their annotations and becomes overconfident; the members
    of one that sees a new phantom in every batch approach the distribution of annotations.

    Args:
        keys: keys of image and label, (1, X, Y, Z) each; their sizes give the size of the phantom.
    """

    def __init__(self, keys: Any = ("image", "label")) -> None:
        MapTransform.__init__(self, keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with a new image, float32, and label, of the old ones' sizes and metadata."""
        d = dict(data)
        image, label = self.keys
        sequence = np.random.SeedSequence(int(self.R.randint(2**31)))
        phantom = make_phantom_scan(d[image].shape[1:], seed=sequence)
        annotation = phantom.draw_annotation(np.random.default_rng(sequence.spawn(1)[0]))
        for key, values in ((image, phantom.image), (label, annotation)):
            d[key][:] = torch.as_tensor(values[None]).to(d[key].dtype)
        return d
