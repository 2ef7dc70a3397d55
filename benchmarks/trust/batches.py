"""Random training batches on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, ResizeWithPadOrCropd

from benchmarks.trust.augmentation import augment
from benchmarks.trust.phantoms import draw_annotations, draw_phantoms

PADDED = (48, 64, 48)
FOLDS = 5


def prepare(parser: ConfigParser, file: Path) -> None:
    """Preprocess the training cases of a bundle's `train.json`, padded to one size, into an NPZ file."""
    transforms = parser.get_parsed_content("train::deterministic_transforms")
    load = Compose([*transforms, ResizeWithPadOrCropd(["image", "label"], PADDED)])
    cases = [load(case) for case in parser.get_parsed_content("train::data")]
    numbers = [int("".join(filter(str.isdigit, Path(case["image"].meta["filename_or_obj"]).name))) for case in cases]
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        file,
        image=torch.stack([case["image"].as_tensor() for case in cases]).half().numpy(),
        label=torch.stack([case["label"].as_tensor() for case in cases]).byte().numpy(),
        fold=np.array([(number + 1) // 2 % FOLDS for number in numbers]),  # files 2k-1 and 2k show one subject
    )


class Batches:
    """Windows of fresh phantoms, or augmented cases of `prepare` without a held-out fold (-1 keeps all).

    `out_of_fold` are label maps of segmenters that were not trained on the case, (N, 1, X, Y, Z).
    """

    def __init__(
        self,
        device: torch.device,
        size: Sequence[int],
        cases: Mapping[str, Any] | None = None,
        out_of_fold: Any = None,
        held_out: int = -1,
    ) -> None:
        self.device, self.size, self.cases = device, tuple(size), cases
        if cases is not None:
            self.image = torch.as_tensor(cases["image"], dtype=torch.float32, device=device)
            maps = [cases["label"]] if out_of_fold is None else [cases["label"], out_of_fold]
            self.maps = [torch.as_tensor(m, device=device) for m in maps]
            self.chosen = torch.as_tensor(np.flatnonzero(cases["fold"] != held_out), device=device)

    def draw(self, count: int, strength: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return images (B, 1, ...) and label maps (B, 1, ...): truth and, if given, those of other segmenters."""
        if self.cases is None:
            image, scaled = draw_phantoms(count, self.device, self.size)
            return image, [draw_annotations(scaled)]
        index = self.chosen[torch.randint(len(self.chosen), (count,), device=self.device)]
        return augment(self.image[index], [m[index] for m in self.maps], self.size, strength)
