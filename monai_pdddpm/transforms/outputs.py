"""From the inferer's tensor to named maps on the grid of the scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_pdddpm.inferers.output import EnsembleOutput
from monai_pdddpm.inferers.run_info import EnsembleRunInfo
from monai_pdddpm.transforms.scan_grid import ScanGrid, box_above
from monai_pdddpm.utils.probabilities import likeliest_class, mutual_information, predictive_entropy, tempered
from monai_pdddpm.utils.scratch import scratch_tensor

_NEGLIGIBLE = 1e-6  # foreground probability that is stored as 0; its entropy is below 2e-5 nats
_SUMMED = ("pred", "member_mean", "preseg")  # parts that are probabilities


class SplitOutputd(MapTransform):
    """Split an output of one frame, as training's validation has it, into answer and pre-segmentation.

    The key keeps the answer's probabilities, (K, X, Y[, Z]); those of the pre-segmentation become ``preseg``.

    Args:
        keys: the key of the output of :class:`monai_pdddpm.inferers.PDDDPMInferer`.
        num_classes: K.

    Raises:
        UserError: on a call, if the number of channels does not fit the number of classes.
    """

    def __init__(self, keys: KeysCollection, num_classes: int) -> None:
        super().__init__(keys)
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the output replaced and ``preseg`` added."""
        d = dict(data)
        for key in self.key_iterator(d):
            members = max(0, len(d[key]) // self.num_classes - 4)
            parts = EnsembleOutput(self.num_classes, members).split(d[key])
            d[key], d["preseg"] = parts["pred"], parts["preseg"]
        return d


def uncertainty_maps(parts: Mapping[str, torch.Tensor], temperature: float, frames: int = 1) -> dict[str, torch.Tensor]:
    """Return the maps that follow from the parts of an output.

    ``seg`` and ``entropy`` are those of the tempered answer. ``mutual_information`` is the entropy of ``member_mean``
    minus ``member_entropy``: of the members alone, without temperature. The label map of ``preseg`` is ``preseg_seg``.

    It belongs after the inverse transforms, because the entropy of interpolated probabilities is not the interpolated
    entropy. The maps of a time series get their frames as the last axis, (C, X, Y, Z, T).

    Args:
        parts: as :meth:`monai_pdddpm.inferers.EnsembleOutput.split` returns them, each (T x C, X, Y[, Z]).
        temperature: of the answer, see :func:`monai_pdddpm.utils.probabilities.tempered`.
        frames: T.

    Returns:
        the parts ``variance`` and ``preseg``, ``prob`` (the tempered answer) and the maps named above.
    """
    found = {name: frames_last(part, frames) for name, part in parts.items()}
    # interpolation leaves sums slightly off 1, and 0 outside of the network's grid
    answer, mean, preseg = (normalized(found[name]) for name in _SUMMED)
    prob = tempered(answer, temperature)
    return {
        "prob": prob,
        "seg": _label_map(prob),
        "entropy": predictive_entropy(prob, dim=0)[None],
        "mutual_information": mutual_information(mean, found["member_entropy"][0])[None],
        "variance": found["variance"].clone(),  # a view would keep all parts in memory
        "preseg": preseg,
        "preseg_seg": _label_map(preseg),
    }


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


def normalized(p: torch.Tensor) -> torch.Tensor:
    """Return probabilities, (K, ...), that sum to 1; where all are zero, the first class gets 1."""
    p = p.clamp(min=0)
    total = p.sum(dim=0)
    p.div_(total)
    outside = total <= 1e-6
    if outside.any():
        p.masked_fill_(outside, 0.0)[:1].masked_fill_(outside, 1.0)
    return p


class EnsembleMapsd(MapTransform):
    """Turn the output of the inferer into maps on the grid of the scan.

    Probabilities are interpolated first and maps are made of them after that, see :func:`uncertainty_maps`. Only the
    bounding box of voxels with a foreground probability above one in a million is computed; the rest is background.

    The result has the answer's probabilities ``prob``, the label map ``seg``, ``entropy``, ``mutual_information``,
    ``variance``, ``preseg`` and ``preseg_seg``; and if the output has members, their label maps ``members``, (members,
    X, Y[, Z]), or (members, X, Y[, Z], T) for a time series: uint8, or int16 above 256 classes. The label map also
    replaces the output under its key, where MONAI Label and MONAI Deploy look for it.

    Args:
        keys: the key of the output; the data also hold the scan ``image`` that it belongs to.
        num_classes: K.
        temperature: see :func:`uncertainty_maps`.
    """

    def __init__(self, keys: KeysCollection, num_classes: int, temperature: float = 1.0) -> None:
        super().__init__(keys)
        self.num_classes = num_classes
        self.temperature = temperature
        self.limits = (_NEGLIGIBLE ** max(1.0, temperature), _NEGLIGIBLE, _NEGLIGIBLE)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the maps added."""
        d = dict(data)
        for key in self.key_iterator(d):
            output, image = d[key], d["image"]
            meta = {name: value for name, value in output.meta.items() if name != "affine"}
            runs = meta.pop("ensemble_run", None)
            d["ensemble_run"] = runs[0] if isinstance(runs, list) else runs
            frames = frames_of(d)
            channels = output.as_tensor().unflatten(0, (frames, -1))
            statistics = channels[:, : 4 * self.num_classes]
            layout = EnsembleOutput(self.num_classes)
            parts = layout.split(statistics.flatten(0, 1))
            grid = ScanGrid(image, box_above([self._foreground(parts[name]) for name in _SUMMED], self.limits))
            found = layout.split(grid.resample(statistics.flatten(0, 1)))
            for name, part in uncertainty_maps(found, self.temperature, frames).items():
                whole = grid.paste(part, background=float(name in ("prob", "preseg")))
                d[name] = MetaTensor(whole, affine=grid.affine.clone(), meta=dict(meta))
            members = channels[:, 4 * self.num_classes :].unflatten(1, (-1, self.num_classes))
            if members.shape[1]:
                d["members"] = MetaTensor(self._members(members, image), affine=grid.affine.clone(), meta=dict(meta))
            d[key] = d["seg"]
        return d

    def _foreground(self, p: torch.Tensor) -> torch.Tensor:
        """Return the foreground's channels of probabilities, (T x K, X, Y[, Z])."""
        return p.unflatten(0, (-1, self.num_classes))[:, 1:].flatten(0, 1)

    def _members(self, members: torch.Tensor, image: MetaTensor) -> torch.Tensor:
        """Return the label maps of members, (T, members, K, X, Y[, Z]); of many large ones in a file."""
        frames, count = members.shape[:2]
        # a class is likelier than the background only where the background has less than half
        grid = ScanGrid(image, box_above([-members[:, :, 0].flatten(0, 1)], [-0.5]))
        dtype = torch.uint8 if self.num_classes <= 256 else torch.int16
        after = (frames,) if frames > 1 else ()
        maps = scratch_tensor((count, *grid.shape, *after), members.device, dtype).zero_()
        for member, out in zip(members.unbind(1), maps.split(1), strict=True):
            p = grid.resample(member.flatten(0, 1)).unflatten(0, member.shape[:2])
            grid.paste(frames_last(likeliest_class(p, dim=1), frames), out=out)
        return maps
