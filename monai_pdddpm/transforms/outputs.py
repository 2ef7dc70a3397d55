"""From the inferer's tensor to named maps on the grid of the scan."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, MapTransform

from monai_pdddpm.inferers.output import EnsembleOutput
from monai_pdddpm.inferers.run_info import EnsembleRunInfo
from monai_pdddpm.metrics.recalibration import tempered
from monai_pdddpm.metrics.uncertainty import mutual_information
from monai_pdddpm.utils.probabilities import likeliest_class, predictive_entropy
from monai_pdddpm.utils.scratch import scratch_tensor

_INVERTED_TOGETHER = 32 * 2**20  # bytes of members per inversion: each call of Invertd costs some ms


class SplitOutputd(MapTransform):
    """Split the output of :class:`monai_pdddpm.inferers.PDDDPMInferer` into named maps.

    ``pred`` keeps the answer's probabilities. ``member_mean``, ``member_entropy``, ``variance``, ``preseg`` and, if
    there are any, ``members`` get their channels with the same metadata, so that they can be inverted. The frames of a
    time series follow one another along the channels. The inferer's
    :class:`monai_pdddpm.inferers.run_info.EnsembleRunInfo` moves to ``data["ensemble_run"]``.

    Args:
        keys: the key of the output.
        num_classes: K.

    Raises:
        UserError: on a call, if the number of channels does not fit the number of classes.
    """

    def __init__(self, keys: KeysCollection, num_classes: int) -> None:
        super().__init__(keys)
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the maps added."""
        d = dict(data)
        for key in self.key_iterator(d):
            output: Any = d[key]
            meta: dict[str, Any] | None = None
            if isinstance(output, MetaTensor):
                output, meta = output.as_tensor(), dict(output.meta)
            runs = (meta or {}).pop("ensemble_run", None)
            d["ensemble_run"] = runs[0] if isinstance(runs, list) else runs
            members = output.shape[0] // frames_of(d) // self.num_classes - 4
            parts = EnsembleOutput(self.num_classes, max(members, 0)).split(output)
            for name, part in parts.items():
                d[key if name == "pred" else name] = part if meta is None else MetaTensor(part, meta=dict(meta))
        return d


class InvertMembersd(MapTransform):
    """Bring the members back to the scan's grid and turn them into label maps.

    Members' probabilities are inverted as by MONAI's ``Invertd``; the likeliest class is taken after that. Members of
    at most 32 MiB are inverted together, so that of a large scan only one is held in full. The label maps of many
    large members lie in a temporary file.

    Args:
        keys: the key of the members' probabilities, (T x members x K, X, Y[, Z]) with T frames.
        num_classes: K.
        transform: the preprocessing of the scan ``image``.

    The result is (members, X, Y[, Z]), or (members, X, Y[, Z], T) for a time series: uint8, or int16 above 256 classes.
    """

    def __init__(self, keys: KeysCollection, num_classes: int, transform: Any) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.num_classes = num_classes
        self.invert = Invertd("members", transform, "image", nearest_interp=False, to_tensor=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the members as label maps."""
        d = dict(data)
        frames = frames_of(d)
        for key in self.key_iterator(d):
            scan, meta = d["image"], dict(d[key].meta)
            members = d[key].as_tensor().unflatten(0, (frames, -1, self.num_classes))
            maps: torch.Tensor | None = None
            inverted: Any = None
            together = self._together(members, scan)
            for first, some in zip(range(0, members.shape[1], together), members.split(together, dim=1), strict=True):
                probabilities = MetaTensor(some.flatten(0, 2), meta=dict(meta))
                inverted = self.invert({"image": scan, "members": probabilities})["members"]
                channels = inverted.as_tensor().unflatten(0, some.shape[:3])
                labels = frames_last(likeliest_class(channels, dim=2).flatten(0, 1), frames)
                if maps is None:
                    dtype = torch.uint8 if self.num_classes <= 256 else torch.int16
                    maps = scratch_tensor((members.shape[1], *labels.shape[1:]), labels.device, dtype)
                maps[first : first + len(labels)] = labels
            assert maps is not None  # SplitOutputd adds no key without members
            d[key] = MetaTensor(maps, meta=inverted.meta)
        return d

    def _together(self, members: torch.Tensor, scan: MetaTensor) -> int:
        """Return how many members, (T, members, K, ...), take at most 32 MiB on either grid, at least one."""
        before, after = members[0, 0, 0].numel(), math.prod(int(n) for n in scan.meta.get("spatial_shape", ()))
        return max(1, _INVERTED_TOGETHER // (4 * len(members) * self.num_classes * max(before, after)))


class Uncertaintyd(MapTransform):
    """Add the maps that follow from probabilities: ``entropy``, ``mutual_information``, ``seg`` and ``preseg_seg``.

    ``seg`` and ``entropy`` are those of the tempered answer. ``mutual_information`` is the entropy of ``member_mean``
    minus ``member_entropy``: of the members alone, without temperature.

    It belongs after the inverse transforms, because the entropy of interpolated probabilities is not the interpolated
    entropy. The label map of ``preseg`` becomes ``preseg_seg``. The maps of a time series get their frames as the last
    axis, (C, X, Y, Z, T).

    Args:
        keys: the key of the answer's probabilities, (T x K, X, Y[, Z]) with T frames.
        temperature: of the answer, see :func:`monai_pdddpm.metrics.recalibration.tempered`.
    """

    def __init__(self, keys: KeysCollection = "pred", temperature: float = 1.0) -> None:
        super().__init__(keys)
        self.temperature = temperature

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the maps added."""
        d = dict(data)
        frames = frames_of(d)
        for key in self.key_iterator(d):
            for name in (key, "member_mean", "member_entropy", "variance", "preseg"):
                if name in d:
                    d[name] = frames_last(d[name], frames)
            # interpolation leaves sums slightly off 1, and 0 outside of the network's grid
            if "member_mean" in d:
                mean = d["member_mean"] = normalized(d["member_mean"], dim=0)
                d["mutual_information"] = mutual_information(mean, d["member_entropy"][0], dim=0)[None]
            p = d[key] = tempered(normalized(d[key], dim=0), self.temperature, dim=0)
            d["seg"] = _label_map(p)
            d["entropy"] = predictive_entropy(p, dim=0)[None]
            if "preseg" in d:
                d["preseg"] = normalized(d["preseg"], dim=0)
                d["preseg_seg"] = _label_map(d["preseg"])
        return d


def _label_map(p: torch.Tensor) -> torch.Tensor:
    """Return the likeliest class of probabilities, (K, ...), as (1, ...) in a type that ITK can write."""
    return likeliest_class(p, dim=0, keepdim=True).to(torch.uint8 if len(p) <= 256 else torch.int16)


def frames_of(data: Mapping[Any, Any]) -> int:
    """Return the number of frames of a case, 1 without a time axis."""
    run: EnsembleRunInfo | None = data.get("ensemble_run")
    return 1 if run is None else run.frames


def frames_last(x: torch.Tensor, frames: int) -> torch.Tensor:
    """Return (T x C, X, Y[, Z]) as (C, X, Y[, Z], T); unchanged if T is 1."""
    return x if frames == 1 else x.unflatten(0, (frames, -1)).movedim(0, -1)


def normalized(p: torch.Tensor, dim: int) -> torch.Tensor:
    """Return probabilities that sum to 1 over ``dim``; where all are zero, the first class gets 1."""
    p = p.clamp(min=0)
    total = p.sum(dim=dim, keepdim=True)
    outside = torch.zeros_like(p)
    outside.narrow(dim, 0, 1).fill_(1.0)
    return torch.where(total > 1e-6, p / total.clamp(min=1e-6), outside)


class EnsembleMapsd(MapTransform):
    """Turn the output of the inferer into maps on the grid of the scan.

    The steps are :class:`SplitOutputd`, MONAI's ``Invertd``, :class:`InvertMembersd` and :class:`Uncertaintyd`. The
    result has the answer's probabilities ``prob``, the label map ``seg``, ``entropy``, ``mutual_information``,
    ``variance``, ``preseg`` and ``preseg_seg``, and the label maps ``members`` if the output has members. The label
    map also replaces the output under its key, where MONAI Label and MONAI Deploy look for it.

    Args:
        keys: the key of the output.
        num_classes: K.
        transform: the preprocessing of the scan ``image``.
        temperature: see :class:`Uncertaintyd`.
    """

    def __init__(self, keys: KeysCollection, num_classes: int, transform: Any, temperature: float = 1.0) -> None:
        super().__init__(keys)
        maps = (*self.keys, "member_mean", "member_entropy", "variance", "preseg")
        self.steps = Compose(
            [
                SplitOutputd(keys, num_classes),
                Invertd(maps, transform, "image", nearest_interp=False, to_tensor=True, allow_missing_keys=True),
                InvertMembersd("members", num_classes, transform),
                Uncertaintyd(keys, temperature=temperature),
            ]
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the maps added."""
        d = dict(self.steps(data))
        for key in self.key_iterator(d):
            d["prob"], d[key] = d[key], d["seg"]
        return d
