"""Compare the probabilities of each method with the truth of one case."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from monai_pdddpm.metrics.calibration import masked_voxels, near_structure, voxel_metrics
from monai_pdddpm.metrics.held_out import sample_voxels
from monai_pdddpm.metrics.lesions import lesion_metrics
from monai_pdddpm.metrics.segmentation import Labels, class_names, is_in, mask_metrics, segmentation_metrics
from monai_pdddpm.utils.probabilities import likeliest_class

_METHODS: Mapping[Hashable, Hashable] = {"preseg": "segmenter", "prob": "ensemble"}


class SegmentationMetricsd(MapTransform):
    """Write the metrics of each method to `data["metrics"]`.

    They are {method: {"labels": {name: `segmentation_metrics`}, "near structure": `voxel_metrics`, "voxels":
    `sample_voxels`}}: the label map is the argmax of the probabilities, the calibration is taken over the true
    foreground dilated by three voxels. With `lesions` each label has its `lesion_metrics` too. The methods of
    ``preseg`` and ``prob`` are `segmenter` and `ensemble`; other keys name their method. `EvaluationReport` fits a
    calibration to the voxels, out of sample. The probabilities must lie on the truth's grid and must not be calibrated.

    Args:
        keys: entries with probabilities (K, X, Y, Z) or (K, X, Y), background first. The truth ``label``, (1, X, Y, Z)
            or (1, X, Y), holds 0 and the indices of `labels`, and -1 in voxels that are left out.
        labels: names of the foreground classes by channel index, see `class_names`.
        lesions: add the metrics of lesions.
        regions: name -> channel indices of a union of classes, which gets the metrics of a class.

    Raises:
        ValueError: on a call, if truth and probabilities do not match.
    """

    def __init__(
        self,
        keys: KeysCollection = ("preseg", "prob"),
        *,
        labels: Labels,
        lesions: bool = False,
        regions: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(keys)
        self.labels = class_names(labels)
        self.lesions = lesions
        self.regions = regions or {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Evaluate one case."""
        found = dict(data)
        truth = convert_to_tensor(found["label"])[0].long()
        near = near_structure(truth) & (truth >= 0)
        found["metrics"] = {
            _METHODS.get(key, key): self._evaluate(found[key], truth, near) for key in self.key_iterator(found)
        }
        return found

    def _evaluate(self, probability: MetaTensor, truth: torch.Tensor, near: torch.Tensor) -> dict[str, Any]:
        """Return the metrics of one method."""
        if tuple(probability.shape[1:]) != tuple(truth.shape):
            raise ValueError(
                f"the probabilities have shape {tuple(probability.shape)}, expected (K, "
                f"{', '.join(str(size) for size in truth.shape)}) as of the truth: invert their transforms first, or "
                "load the truth through the image's transforms"
            )
        if len(probability) <= max(self.labels):
            raise ValueError(
                f"{len(probability)} channels, expected one for the background and for each class up to "
                f"{max(self.labels)}: give softmax probabilities of all classes"
            )
        plain = convert_to_tensor(probability)
        spacing = [float(size) for size in affine_to_spacing(probability.affine.cpu(), r=truth.ndim)]
        label_map = torch.where(truth.to(plain.device) < 0, -1, likeliest_class(plain, dim=0))
        labels = segmentation_metrics(label_map, truth, self.labels, spacing)
        if self.lesions:
            more = lesion_metrics(label_map, truth, self.labels)
            labels = {name: found | more[name] for name, found in labels.items()}
        rows, classes = masked_voxels(plain, truth, near)
        return {
            "labels": labels,
            "regions": {
                name: mask_metrics(is_in(label_map, classes), is_in(truth, classes), spacing)
                for name, classes in self.regions.items()
            },
            "near structure": voxel_metrics(rows, classes),
            "voxels": sample_voxels(rows, classes),
        }
