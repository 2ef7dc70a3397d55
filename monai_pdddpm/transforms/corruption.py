"""Corrupted pre-segmentations for training: as imperfect as those of new cases."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from monai_pdddpm.utils.checks import check_number
from monai_pdddpm.utils.probabilities import likeliest_class


class PresegmentationCorruption:
    """Bend the borders of one-hot pre-segmentations, and add and remove blobs, like the errors of a segmenter.

    A segmenter is nearly perfect on its training cases, so a denoiser that sees those pre-segmentations learns to copy.
    Corruption is the cheap remedy; out-of-fold pre-segmentations are the better one. The severity is drawn per case, so
    that the denoiser sees good and bad pre-segmentations. Random numbers come from torch's global generator.

    Args:
        probability: fraction of the pre-segmentations that are corrupted, 0 to 1.
        shift: standard deviation of the nodes of the random warp along each axis, in voxels, at severity 1; no voxel
            moves more than twice as far.
        amplitude: amplitude of the smooth field that is added to the blurred one-hot before the argmax, at severity 1;
            at 0.35 and two classes about one voxel in a thousand changes far from any border.
        scale: distance between the nodes of the random fields, in voxels.

    Raises:
        UserError: if an argument is out of range.
    """

    def __init__(self, probability: float = 0.9, shift: float = 2.0, amplitude: float = 0.35, scale: int = 6) -> None:
        self.probability = check_number("probability", probability, 0, 1)
        self.shift = check_number("shift", shift, 0)
        self.amplitude = check_number("amplitude", amplitude, 0)
        self.scale = check_number("scale", scale, 1)

    def __call__(self, presegmentation: torch.Tensor) -> torch.Tensor:
        """Return corrupted pre-segmentations, one-hot like those given: (B, K, ...), two or three spatial axes."""
        severity = torch.rand(len(presegmentation), *[1] * (presegmentation.dim() - 1), device=presegmentation.device)
        # coordinates in bfloat16 would be off by a good part of a voxel
        with torch.autocast(presegmentation.device.type, enabled=False):
            corrupted = self.corrupt(presegmentation.float(), severity)
        chosen = torch.rand_like(severity) < self.probability
        return torch.where(chosen, corrupted.to(presegmentation.dtype), presegmentation)

    def corrupt(self, presegmentation: torch.Tensor, severity: torch.Tensor) -> torch.Tensor:
        """Corrupt pre-segmentations, one-hot (B, K, ...), by a severity from 0 (unchanged) to 1, (B, 1, ...)."""
        batch, classes, *size = presegmentation.shape
        warped = self._warp(presegmentation, severity)
        # a blurred one-hot is near 1/2 only at borders, so the field changes the class there
        blurred = torch.lerp(warped, _blur(warped, len(size)), severity)
        field = self._smooth_field(batch, classes, size, presegmentation.device)
        index = likeliest_class(blurred + self.amplitude * severity * field, dim=1, keepdim=True)
        return torch.zeros_like(presegmentation).scatter_(1, index, 1.0)

    def _warp(self, presegmentation: torch.Tensor, severity: torch.Tensor) -> torch.Tensor:
        batch, _, *size = presegmentation.shape
        identity = torch.eye(len(size), len(size) + 1, device=presegmentation.device).expand(batch, -1, -1)
        grid = F.affine_grid(identity, list(presegmentation.shape), align_corners=False)
        field = self._smooth_field(batch, len(size), size, presegmentation.device).clamp(-2, 2) * severity * self.shift
        # grid_sample counts axes from the last, in units of half the volume
        in_grid_units = torch.stack([field[:, i] * 2 / size[i] for i in reversed(range(len(size)))], dim=-1)
        return F.grid_sample(presegmentation, grid + in_grid_units, padding_mode="border", align_corners=False)

    def _smooth_field(self, batch: int, channels: int, size: list[int], device: torch.device) -> torch.Tensor:
        nodes = [max(2, round(n / self.scale)) for n in size]
        mode = "trilinear" if len(size) == 3 else "bilinear"
        return F.interpolate(torch.randn(batch, channels, *nodes, device=device), size=size, mode=mode)


def _blur(x: torch.Tensor, spatial_dims: int) -> torch.Tensor:
    pool = F.avg_pool3d if spatial_dims == 3 else F.avg_pool2d
    return pool(F.pad(x, [1, 1] * spatial_dims, mode="replicate"), kernel_size=3, stride=1)
