"""From the inferer's one tensor to named maps."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Invertd, MapTransform

from monai_pdddpm.metrics.recalibration import tempered
from monai_pdddpm.metrics.uncertainty import likeliest_class, mutual_information, predictive_entropy
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.scratch import scratch_tensor

MAPS = ("member_entropy", "variance", "preseg", "members")
_TOGETHER = 32 * 2**20  # bytes of members that go back together: MONAI needs some ms to begin with


class SplitOutputd(MapTransform):
    """Cut the output of :class:`monai_pdddpm.inferers.PDDDPMInferer` into ``pred`` and its companions.

    ``pred`` keeps the mean probabilities; ``member_entropy``, ``variance``, ``preseg`` and, when there are any,
    ``members`` get the other channels, with the same metadata, so that they can be inverted. Of a time series each
    holds the channels of all frames, frame after frame. What the inferer said of its run goes to
    ``data["inference"]``. A pre-segmentation that is not a number (a network that shows none) is left out.

    Args:
        keys: the key of the output.
        num_classes: K.

    Raises:
        UserError: when the number of channels does not fit the number of classes.
    """

    def __init__(self, keys: Any = "pred", num_classes: int = 2) -> None:
        super().__init__(keys)
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the maps added."""
        d = dict(data)
        k = self.num_classes
        for key in self.key_iterator(d):
            output, meta, frames = d[key], {}, 1
            if isinstance(output, MetaTensor):
                meta, output = dict(output.meta), output.as_tensor()
                runs = meta.pop("ensemble_run", None)
                run = runs[0] if isinstance(runs, list) else runs
                d["inference"] = run.as_report() if run else {}
                frames = frames_of(d)
            found = output.shape[0] // frames
            if found < 3 * k or found % k or output.shape[0] % frames:
                raise UserError(
                    f"{key}: found {output.shape[0]} channels, expected 3 x {k} classes and {k} more for each member, "
                    f"{frames} times; fix num_classes or 'labels', or use PDDDPMInferer"
                )
            parts = [
                part.flatten(0, 1)
                for part in output.unflatten(0, (frames, -1)).split([k, 1, k - 1, k, found - 3 * k], dim=1)
            ]
            if isinstance(d[key], MetaTensor):
                parts = [MetaTensor(part, meta=dict(meta)) for part in parts]
            d[key] = parts[0]
            for name, part in zip(MAPS, parts[1:], strict=True):
                if part.shape[0] and not (name == "preseg" and torch.isnan(part).all()):
                    d[name] = part
        return d


class InvertMembersd(MapTransform):
    """Bring the members back to the scan's grid, a few at a time, and make label maps of them.

    Members' probabilities are inverted as MONAI's ``Invertd`` does and the likeliest class is taken after that. As many
    go together as take 32 MiB, so that of a large scan only one is held in full; the label maps of many large members
    lie in a temporary file.

    Args:
        keys: the key of the members' probabilities, (T x members x K, ...) for T frames.
        num_classes: K.
        transform: the preprocessing.
        orig_keys: the scan that it was applied to.
        allow_missing_keys: do nothing when there are no members.

    The result is (members, ...), or (members, ..., T) of a time series, in uint8, or int16 of more than 256 classes.
    """

    def __init__(
        self,
        keys: Any = "members",
        num_classes: int = 2,
        transform: Any = None,
        orig_keys: str = "image",
        allow_missing_keys: bool = True,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.num_classes = num_classes
        self.orig_keys = orig_keys
        self.invert = Invertd("members", transform, orig_keys, nearest_interp=False, to_tensor=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the members as label maps."""
        d = dict(data)
        for key in self.key_iterator(d):
            members = d[key]
            meta = dict(members.meta)
            frames = frames_of(d)
            each = members.as_tensor().unflatten(0, (frames, -1, self.num_classes))
            maps: torch.Tensor | None = None
            inverted: Any = None
            at_once = self._at_once(each, d[self.orig_keys])
            for first, some in zip(range(0, each.shape[1], at_once), each.split(at_once, dim=1), strict=True):
                together = MetaTensor(some.flatten(0, 2), meta=dict(meta))
                inverted = self.invert({self.orig_keys: d[self.orig_keys], "members": together})["members"]
                channels = inverted.as_tensor().unflatten(0, some.shape[:3])
                labels = frames_last(likeliest_class(channels, dim=2).flatten(0, 1), frames)
                if maps is None:
                    kind = torch.uint8 if self.num_classes <= 256 else torch.int16
                    maps = scratch_tensor((each.shape[1], *labels.shape[1:]), labels.device, kind)
                maps[first : first + len(labels)] = labels
            assert maps is not None  # SplitOutputd leaves out the key of no members
            d[key] = MetaTensor(maps, meta=inverted.meta)
        return d

    def _at_once(self, each: torch.Tensor, scan: MetaTensor) -> int:
        """Return how many members, (T, members, K, ...), go together: those of 32 MiB on either grid, at least one."""
        before, after = each[0, 0, 0].numel(), math.prod(int(n) for n in scan.meta.get("spatial_shape", ()))
        return max(1, _TOGETHER // (4 * len(each) * self.num_classes * max(before, after)))


class Uncertaintyd(MapTransform):
    """Add the maps that follow from probabilities: ``entropy``, ``mutual_information`` and ``seg``.

    To be used after the inverse transforms: the entropy or the argmax of interpolated probabilities is not the
    interpolated entropy or argmax. The maps of a time series get their frames as the last axis, (..., X, Y, Z, T).

    Args:
        keys: the key of the mean probabilities, (T x K, ...) for T frames.
        preseg_key: of the pre-segmentation's probabilities; its label map becomes ``preseg_seg``.
        temperature: of the mean probabilities (see :func:`monai_pdddpm.metrics.recalibration.tempered`). The mutual
            information is of the probabilities before, as the members' entropies are.
    """

    def __init__(self, keys: Any = "pred", preseg_key: str = "preseg", temperature: float = 1.0) -> None:
        super().__init__(keys)
        self.temperature = temperature
        self.preseg_key = preseg_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the maps added."""
        d = dict(data)
        frames = frames_of(d)
        for key in self.key_iterator(d):
            for name in (key, "member_entropy", "variance", self.preseg_key):
                if name in d:
                    d[name] = frames_last(d[name], frames)
            # interpolation on the way back may leave sums a little off 1, at the volume's rim even at 0
            p = normalised(d[key], dim=0)
            if "member_entropy" in d:
                d["mutual_information"] = mutual_information(p, d["member_entropy"][0], dim=0)[None]
            p = d[key] = tempered(p, self.temperature, dim=0)
            d["seg"] = likeliest_class(p, dim=0, keepdim=True)
            d["entropy"] = predictive_entropy(p, dim=0)[None]
            if self.preseg_key in d:
                d[self.preseg_key] = normalised(d[self.preseg_key], dim=0)
                d["preseg_seg"] = likeliest_class(d[self.preseg_key], dim=0, keepdim=True)
        return d


def frames_of(data: Mapping[Any, Any]) -> int:
    """Return the number of frames of a case, 1 without a time axis."""
    return int(data.get("inference", {}).get("frames", 1))


def frames_last(x: torch.Tensor, frames: int) -> torch.Tensor:
    """Return (T x C, X, Y[, Z]) as (C, X, Y[, Z], T); as it is when T is 1."""
    return x if frames == 1 else x.unflatten(0, (frames, -1)).movedim(0, -1)


def normalised(p: torch.Tensor, dim: int) -> torch.Tensor:
    """Return probabilities that sum to 1 over ``dim``; where they are all zero, the first class is certain."""
    p = p.clamp(min=0)
    total = p.sum(dim=dim, keepdim=True)
    outside = torch.zeros_like(p)
    outside.narrow(dim, 0, 1).fill_(1.0)
    return torch.where(total > 1e-6, p / total.clamp(min=1e-6), outside)
