"""From the inferer's one tensor to named maps."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_pdddpm.errors import UserError
from monai_pdddpm.metrics.recalibration import tempered
from monai_pdddpm.metrics.uncertainty import mutual_information, predictive_entropy

MAPS = ("member_entropy", "variance", "preseg", "members")


class SplitOutputd(MapTransform):
    """Cut the output of :class:`monai_pdddpm.inferers.PDDDPMInferer` into ``pred`` and its companions.

    ``pred`` keeps the mean probabilities; ``member_entropy``, ``variance``, ``preseg`` and, when there are any,
    ``members`` get the other channels, with the same metadata, so that they can be inverted together. What the inferer
    said of its run goes to ``data["inference"]``. A pre-segmentation that is not a number (a network that shows none)
    is left out.

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
            output = d[key]
            if output.shape[0] < 3 * k or output.shape[0] % k:
                raise UserError(
                    f"{key}: found {output.shape[0]} channels, expected 3 x {k} classes and {k} more for each member; "
                    "mend num_classes or 'labels', or use PDDDPMInferer"
                )
            parts = [output[:k], output[k : k + 1], output[k + 1 : 2 * k], output[2 * k : 3 * k], output[3 * k :]]
            if isinstance(output, MetaTensor):
                meta = dict(output.meta)
                said = meta.pop("inference", "{}")
                d["inference"] = json.loads(said[0] if isinstance(said, list) else said)
                parts = [MetaTensor(part.as_tensor(), meta=dict(meta)) for part in parts]
            d[key] = parts[0]
            for name, part in zip(MAPS, parts[1:], strict=True):
                if part.shape[0] and not torch.isnan(part).all():
                    d[name] = part
        return d


class Uncertaintyd(MapTransform):
    """Add the maps that follow from probabilities: ``entropy``, ``mutual_information`` and ``seg``.

    To be used after the inverse transforms: the entropy or the argmax of interpolated probabilities is not the
    interpolated entropy or argmax.

    Args:
        keys: the key of the mean probabilities, (K, ...).
        members_key: of the members' probabilities (members x K, ...); replaced by label maps (members, ...).
        preseg_key: of the pre-segmentation's probabilities; its label map becomes ``preseg_seg``.
        temperature: of the mean probabilities (see :func:`monai_pdddpm.metrics.recalibration.tempered`). The mutual
            information is of the probabilities before, as the members' entropies are.
    """

    def __init__(
        self,
        keys: Any = "pred",
        members_key: str = "members",
        preseg_key: str = "preseg",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(keys)
        self.temperature = temperature
        self.members_key = members_key
        self.preseg_key = preseg_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the maps added."""
        d = dict(data)
        for key in self.key_iterator(d):
            p = d[key]
            classes = p.shape[0]
            # interpolation on the way back may leave sums a little off 1, at the volume's rim even at 0
            p = normalised(p, dim=0)
            if "member_entropy" in d:
                d["mutual_information"] = mutual_information(p, d["member_entropy"][0], dim=0)[None]
            p = d[key] = tempered(p, self.temperature, dim=0)
            d["seg"] = p.argmax(dim=0, keepdim=True)
            d["entropy"] = predictive_entropy(p, dim=0)[None]
            if self.preseg_key in d:
                d[self.preseg_key] = normalised(d[self.preseg_key], dim=0)
                d["preseg_seg"] = d[self.preseg_key].argmax(dim=0, keepdim=True)
            if self.members_key in d:
                members = d[self.members_key]
                d[self.members_key] = members.unflatten(0, (-1, classes)).argmax(dim=1)
        return d


def normalised(p: torch.Tensor, dim: int) -> torch.Tensor:
    """Return probabilities that sum to 1 over ``dim``; where they are all zero, the first class is certain."""
    p = p.clamp(min=0)
    total = p.sum(dim=dim, keepdim=True)
    outside = torch.zeros_like(p)
    outside.narrow(dim, 0, 1).fill_(1.0)
    return torch.where(total > 1e-6, p / total.clamp(min=1e-6), outside)
