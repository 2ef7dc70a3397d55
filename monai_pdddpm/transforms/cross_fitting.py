"""Pre-segmentations of the training cases by segmenters that never saw them."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.inferers import Inferer
from monai.transforms import MapTransform

from monai_pdddpm.networks.weights import load_weights, read_weights


class CrossFittedPresegmentationd(MapTransform):
    """Add ``presegmentation``, the probabilities of the segmenter that was trained without the case's fold.

    A case without ``fold`` (a validation case) passes unchanged: there the network's own segmenter is honest.

    Args:
        keys: the key of the preprocessed image, (C, X, Y[, Z]).
        segmenter: the segmenter's architecture.
        files: path of the weights for each fold, ``{fold}`` standing for its number.
        inferer: how the segmenter is called on a volume.
    """

    def __init__(self, keys: Any, segmenter: torch.nn.Module, files: str, inferer: Inferer) -> None:
        super().__init__(keys)
        self.segmenter = segmenter
        self.files = files
        self.inferer = inferer
        self._by_fold: dict[int, torch.nn.Module] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with ``presegmentation``, (K, X, Y[, Z]) float32, added."""
        d = dict(data)
        if "fold" not in d:
            return d
        for key in self.key_iterator(d):
            image = d[key]
            with torch.no_grad():
                logits = self.inferer(torch.as_tensor(image)[None], self._of(int(d["fold"])))
            d["presegmentation"] = logits.float().softmax(dim=1)[0]
        return d

    def _of(self, fold: int) -> torch.nn.Module:
        if fold not in self._by_fold:
            file = self.files.format(fold=fold)
            network = copy.deepcopy(self.segmenter)
            load_weights(network, read_weights(file), file)
            self._by_fold[fold] = network.eval()
        return self._by_fold[fold]
