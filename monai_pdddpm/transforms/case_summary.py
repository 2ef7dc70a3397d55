"""Numbers for the user from the maps of a case."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.affines import voxel_sizes

from monai_pdddpm.inferers.denoising_inferer import plain
from monai_pdddpm.metrics.recalibration import Calibration, Volume
from monai_pdddpm.metrics.segmentation import class_names, is_in, structures
from monai_pdddpm.transforms.outputs import frames_of
from monai_pdddpm.transforms.scan_grid import box_above
from monai_pdddpm.utils.probabilities import tempered


def voxel_volume_ml(affine: torch.Tensor | np.ndarray) -> float:
    """Return the volume of a voxel in mL from a 4x4 affine in mm."""
    return abs(float(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3]))) / 1000


class CaseSummaryd(MapTransform):
    """Put what a decision needs into ``data["result"]``.

    These are the volume of each label and region with its spread over the members, the agreement of the members with
    the answer and the expected Dice, also per structure. A calibration adds the features outside their usual range; if
    there are none, it adds a 90 % interval of each volume and a predicted Dice. Both come from the answer's
    probabilities and hardly depend on the seed. A time series has a list, ``frames``. MONAI Label sends ``result`` to
    its client, and the report keeps it.

    Args:
        keys: the key of the label map, (1, X, Y, Z), or (1, X, Y, Z, T) with frames. The data may also hold the label
            maps ``members``, (members, X, Y, Z[, T]), the map ``entropy``, (1, X, Y, Z[, T]), and the answer's
            probabilities ``prob``, (K, X, Y, Z[, T]), with the calibration's temperature.
        labels: channel index -> name, the background (0) included.
        calibration: of the bundle.
        regions: name -> channel indices of a union of labels.

    Raises:
        UserError: when ``labels`` are not as :func:`monai_pdddpm.metrics.segmentation.class_names` expects.
    """

    def __init__(
        self,
        keys: Any,
        labels: Mapping[str, str],
        calibration: Calibration | None = None,
        regions: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(keys)
        self.labels = class_names(labels)
        self.structures = structures(self.labels, regions)
        self.calibration = calibration or Calibration()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with ``result`` added."""
        d = dict(data)
        frames = frames_of(d)
        for key in self.key_iterator(d):
            seg = d[key]
            maps = [seg, *(d.get(other) for other in ("members", "entropy", "prob"))]
            affine = seg.affine if isinstance(seg, MetaTensor) else torch.eye(4)
            if frames == 1:
                d["result"] = self._summary(*maps, affine=affine)
                continue
            series = [
                self._summary(*(x if x is None else x[..., f] for x in maps), affine=affine) for f in range(frames)
            ]
            unlike = [f"frame {f}: {text}" for f, one in enumerate(series) for text in one["unlike_usual"]]
            d["result"] = {"frames": series, "unlike_usual": unlike}
        return d

    def _summary(self, *maps: Any, affine: torch.Tensor) -> dict[str, Any]:
        """Return the numbers of one frame from seg (1, ...), members (N, ...), entropy (1, ...), prob (K, ...)."""
        whole, prob = maps[0], maps[3]
        labeled = [x for x in maps[:2] if x is not None]
        box = (slice(None), *box_above(labeled, [0] * len(labeled)))
        seg = plain(whole)[box]
        members, entropy = (x if x is None else plain(x)[box] for x in maps[1:3])
        voxel_ml = voxel_volume_ml(affine)
        inside = {name: is_in(seg, classes) for name, classes in self.structures.items()}
        drawn = {} if members is None else {name: is_in(members, classes) for name, classes in self.structures.items()}
        volumes = {name: _volume(mask, drawn.get(name), voxel_ml) for name, mask in inside.items()}
        features = _features({name: volumes[name] for name in self.labels.values()}, whole.shape[1:], affine)
        if members is not None:
            features["agreement"] = agreement(members, seg[0], list(self.labels))
        found: dict[str, Volume] = {}
        dice_of: dict[str, float | None] = {}
        if prob is not None:
            prob = tempered(plain(prob), 1 / self.calibration.temperature)  # as the calibration was fitted
            of = {name: prob[list(classes)].sum(dim=0) for name, classes in self.structures.items()}
            dice_of = {name: expected_dice(p, is_in(plain(whole)[0], self.structures[name])) for name, p in of.items()}
            present = [one for name in self.labels.values() if (one := dice_of[name]) is not None]
            features["expected_dice"] = float(np.mean(present)) if present else 1.0
            found = {name: probable_volume(p, voxel_ml) for name, p in of.items()}
            for name, volume in found.items():
                volumes[name]["expected"] = round(volume.expected_ml, 4)
        unlike = self.calibration.unlike(features)
        result: dict[str, Any] = {
            "volume_ml": volumes,
            "structures": {
                name: {
                    "expected_dice": _rounded(dice_of.get(name)),
                    "agreement": None if members is None else _rounded(agreement(drawn[name], mask[0], [1])),
                    "mean_entropy_inside_nats": _mean_inside(entropy, mask),
                }
                for name, mask in inside.items()
            },
            "mean_entropy_inside_nats": _mean_inside(entropy, seg > 0),
            "features": {name: round(value, 5) for name, value in features.items()},
            "unlike_usual": unlike,
        }
        if prob is None or unlike:  # the calibration does not hold for unusual cases
            return result
        for name, volume in found.items():
            if interval := self.calibration.interval(name, volume):
                volumes[name]["interval_90"] = [round(bound, 4) for bound in interval]
        if dice := self.calibration.predicted_dice(features["expected_dice"]):
            value, low, high = (round(number, 4) for number in dice)
            result["predicted_dice"] = {"value": value, "interval_90": [low, high]}
        return result


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _mean_inside(entropy: torch.Tensor | None, inside: torch.Tensor) -> float | None:
    """Return the mean entropy of some voxels, both (1, ...); None without any."""
    return round(float(entropy[inside].mean()), 4) if entropy is not None and inside.any() else None


def _volume(inside: torch.Tensor, members: torch.Tensor | None, voxel_ml: float) -> dict[str, Any]:
    """Return the volume of a mask, (1, ...), with its spread over those of the members, (N, ...), in mL."""
    volume = {"segmentation": round(int(inside.sum()) * voxel_ml, 4)}
    if members is None:
        return volume
    ml = members.flatten(1).sum(dim=1).double() * voxel_ml
    numbers = {"mean": ml.mean(), "sd": ml.std(correction=0), "min": ml.min(), "max": ml.max()}
    return volume | {f"members_{name}": round(float(number), 4) for name, number in numbers.items()}


def agreement(members: torch.Tensor, answer: torch.Tensor, classes: Sequence[int]) -> float:
    """Return the Dice of the members with the answer, averaged over members and the classes that any of them has.

    Args:
        members: label maps, (N, ...).
        answer: label map, (...).
        classes: to average over.
    """
    found = []
    for index in classes:
        mine, theirs = answer == index, (members == index).flatten(1)
        both = (theirs & mine.flatten()).sum(dim=1)
        size = theirs.sum(dim=1) + mine.sum()
        if size.any():
            found.append(torch.where(size > 0, 2 * both / size, 1.0))
    return float(torch.stack(found).mean()) if found else 1.0


def expected_dice(p: torch.Tensor, inside: torch.Tensor) -> float | None:
    """Return ``2 sum p inside / (size + sum p)``, the Dice to expect if voxels follow their probabilities.

    Args:
        p: probabilities of a structure, (...).
        inside: whether the answer has it, (...).

    Returns:
        the Dice; None if the structure is absent in both.
    """
    size = float(inside.sum() + p.sum(dtype=torch.float64))
    return 2 * float(p[inside].sum(dtype=torch.float64)) / size if size > 0.5 else None


def probable_volume(p: torch.Tensor, voxel_ml: float) -> Volume:
    """Return the volume of a structure from its probabilities, (...), and the volume of a voxel in mL."""
    expected, uncertain = (float(x.sum(dtype=torch.float64)) for x in (p, p * (1 - p)))
    return Volume(expected_ml=expected * voxel_ml, uncertain_ml=uncertain * voxel_ml)


def _features(
    volumes: Mapping[str, Mapping[str, Any]], shape: Sequence[int], affine: torch.Tensor | np.ndarray
) -> dict[str, float]:
    """Return positive numbers that identify unusual cases: field of view and volumes."""
    sizes = sorted(float(n * s) for n, s in zip(shape, voxel_sizes(np.asarray(affine)), strict=False))
    features = {f"field of view, side {number} (mm)": size for number, size in enumerate(sizes, start=1)}
    return features | {f"volume of {name} (mL)": float(volume["segmentation"]) for name, volume in volumes.items()}
