"""Compare the probabilities of each method with the truth of one case."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from monai_pdddpm.data.geometry import largest_shift
from monai_pdddpm.metrics.calibration import masked_voxels, near_structure, voxel_metrics
from monai_pdddpm.metrics.held_out import sample_voxels
from monai_pdddpm.metrics.lesions import lesion_metrics
from monai_pdddpm.metrics.segmentation import Labels, class_names, segmentation_metrics
from monai_pdddpm.utils.checks import check_range
from monai_pdddpm.utils.probabilities import likeliest_class


def file_name(*tensors: Any) -> str:
    """Return the file of the first tensor that has one, else "an unnamed case"."""
    found = [tensor.meta.get("filename_or_obj") for tensor in tensors if isinstance(tensor, MetaTensor)]
    return next((str(name) for name in found if name), "an unnamed case")


class SegmentationMetricsd(MapTransform):
    """Write the metrics of each method to `data["metrics"]`.

    They are {method: {"labels": {name: `segmentation_metrics`}, "near structure": `voxel_metrics`, "voxels":
    `sample_voxels`}}: the label map is the argmax of the probabilities, the calibration is taken over the true
    foreground dilated by `near_voxels` voxels. With `lesions` each label has its `lesion_metrics` too.
    `EvaluationReport` fits a calibration to the voxels, out of sample. The probabilities must lie on the truth's grid
    and must not be calibrated.

    Args:
        keys: entries with probabilities (K, X, Y, Z) or (K, X, Y), background first.
        label_key: entry with the truth (1, X, Y, Z) or (1, X, Y), whole numbers: 0 and the indices of `labels`.
        labels: names of the foreground classes by channel index, see `class_names`.
        methods: name of the method of each key.
        near_voxels: width of the region of the calibration, see `near_structure`.
        bins: number of confidence bins, see `voxel_metrics`.
        lesions: add the metrics of lesions.
        min_lesion_voxels: smallest size of a lesion, see `lesion_metrics`.
        allow_missing_keys: omit a method whose key is missing.

    Raises:
        UserError: at construction, if `min_lesion_voxels` is no whole number from 1 up.
        ValueError: at construction, if the numbers of keys and methods differ or a method occurs twice; on a call, if
            truth and probabilities do not match or their grid has no size in mm.
    """

    def __init__(
        self,
        keys: KeysCollection = ("preseg", "prob"),
        label_key: str = "label",
        *,
        labels: Labels,
        methods: Sequence[str] = ("segmenter", "ensemble"),
        near_voxels: int = 3,
        bins: int = 15,
        lesions: bool = False,
        min_lesion_voxels: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != len(methods) or len(set(methods)) != len(methods):
            raise ValueError(f"methods: found {methods} for the keys {self.keys}, expected a unique name for each key")
        self.label_key = label_key
        self.labels = class_names(labels)
        self.methods = tuple(methods)
        self.near_voxels = near_voxels
        self.bins = bins
        self.lesions = lesions
        check_range("min_lesion_voxels", min_lesion_voxels, 1)
        self.min_lesion_voxels = min_lesion_voxels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Evaluate one case."""
        found = dict(data)
        label = found[self.label_key]
        name = file_name(label, *(found.get(key) for key in self.keys))
        truth = self._classes(label, name)
        near = near_structure(truth, self.near_voxels)
        metrics = {}
        for key, method in self.key_iterator(found, self.methods):
            try:
                metrics[method] = self._evaluate(found[key], label, truth, near)
            except ValueError as error:
                raise ValueError(f"{name}: cannot evaluate {key!r}: {error}") from error
        found["metrics"] = metrics
        return found

    def _classes(self, label: torch.Tensor, name: str) -> torch.Tensor:
        """Return the truth as integers (X, Y, Z), after checking its classes."""
        values = convert_to_tensor(label, track_meta=False)
        if values.ndim not in (3, 4) or len(values) != 1:
            raise ValueError(
                f"{name}: {self.label_key!r} has shape {tuple(values.shape)}, expected one channel, (1, X, Y, Z) or "
                "(1, X, Y): use EnsureChannelFirstd, and AsDiscreted with argmax on a one-hot truth"
            )
        known = [0, *self.labels]
        strange = [value for value in torch.unique(values).tolist() if value not in known]
        if strange:
            raise ValueError(
                f"{name}: {self.label_key!r} has the values {strange[:10]}, expected {known}: name them in "
                "labels, map them with MapLabelValued, or resample the truth with mode nearest"
            )
        return values[0].long()

    def _evaluate(
        self, probability: torch.Tensor, label: torch.Tensor, truth: torch.Tensor, near: torch.Tensor
    ) -> dict[str, Any]:
        """Return the metrics of one method."""
        if tuple(probability.shape[1:]) != tuple(truth.shape):
            raise ValueError(
                f"the probabilities have shape {tuple(probability.shape)}, expected (K, "
                f"{', '.join(str(size) for size in truth.shape)}) as of the truth: invert their transforms first, or "
                " load the truth through the image's transforms"
            )
        if len(probability) <= max(self.labels):
            raise ValueError(
                f"{len(probability)} channels, expected one for the background and for each class up to "
                f"{max(self.labels)}: give softmax probabilities of all classes"
            )
        placed = [tensor.affine.cpu() for tensor in (probability, label) if isinstance(tensor, MetaTensor)]
        if not placed:
            raise ValueError("neither probabilities nor truth know the voxel size: load them with LoadImaged")
        first, last = placed[0].numpy(), placed[-1].numpy()
        if (shift := largest_shift(first, last, (*truth.shape, 1)[:3])) > 0.5:
            warnings.warn(
                f"{file_name(label, probability)}: truth and probabilities lie up to {shift:.1f} voxels apart by their "
                "affines; they are compared voxel by voxel",
                stacklevel=2,
            )
        plain = convert_to_tensor(probability, track_meta=False)
        spacing = [float(size) for size in affine_to_spacing(placed[0], r=truth.ndim)]
        label_map = likeliest_class(plain, dim=0)
        labels = segmentation_metrics(label_map, truth, self.labels, spacing)
        if self.lesions:
            more = lesion_metrics(label_map, truth, self.labels, self.min_lesion_voxels)
            labels = {name: found | more[name] for name, found in labels.items()}
        rows, classes = masked_voxels(plain, truth, near)
        return {
            "labels": labels,
            "near structure": voxel_metrics(rows, classes, self.bins),
            "voxels": sample_voxels(rows, classes),
        }
