"""Where do the seconds of a case go, from its file to its maps?

    python benchmarks/speed/budget.py                         # four sizes
    python benchmarks/speed/budget.py --no_networks --sizes "brain tumor"   # files only

The bundle's own run reads a synthetic scan and writes all files. The pre-segmentation and the members are drawn, so
that maps look like those of a trained network; the networks run as well for their time, unless `--no_networks`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import compose
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks import common  # noqa: E402
from benchmarks.gpu import SIZES, Size, balls_image  # noqa: E402
from monai_pdddpm.bundle import keep_freed_memory  # noqa: E402
from monai_pdddpm.networks.weights import in_fast_layout  # noqa: E402

SURE = 9.0  # largest logit: a trained network leaves some 1e-4 in the background
LAYER = 6.0  # voxels of each class inside the one before


class DrawnSegmenter(nn.Module):
    """Answer with nested classes: the first channel of the image is the distance to the outer surface."""

    def __init__(self, segmenter: nn.Module, classes: int, runs: bool) -> None:
        super().__init__()
        self.segmenter, self.classes, self.runs, self.sure = segmenter, classes, runs, SURE

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.runs:
            self.segmenter(image)
        noise = 0.3 * torch.randn(image[:1, :1].shape, generator=torch.Generator().manual_seed(0))
        steps = [(image[:, :1].float() - LAYER * k).clamp(-self.sure, self.sure) for k in range(self.classes - 1)]
        return torch.cat([noise.expand(len(image), -1, *image.shape[2:]), torch.cumsum(torch.cat(steps, 1), 1)], 1)


class DrawnDenoiser(nn.Module):
    """Answer with the same classes, whose surface is moved by the smoothed state, so that members differ."""

    def __init__(self, denoiser: Any, runs: bool) -> None:
        super().__init__()
        self.denoiser, self.runs = denoiser, runs
        self.num_classes, self.divisor = denoiser.num_classes, denoiser.divisor
        self.image_channels = denoiser.image_channels
        self.drawn = DrawnSegmenter(nn.Identity(), denoiser.num_classes, False)

    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        return [*(self.denoiser.encode(image, presegmentation) if self.runs else []), image[:, :1]]

    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        if self.runs:
            self.denoiser.denoise(x_t, t, features[:-1], solver, solver_steps)
        return self.drawn(features[-1] + 8 * F.avg_pool3d(x_t[:, :1].float(), 5, 1, 2))


class Drawn(Inferer):
    """The bundle's inferer on images whose first channel is the distance to the surface."""

    def __init__(self, inferer: Any, distance: torch.Tensor) -> None:
        super().__init__()
        self.inferer, self.distance = inferer, distance

    def __call__(self, inputs: MetaTensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        inputs = inputs.clone()
        shown = F.interpolate(self.distance[None, None], inputs.shape[2:], mode="trilinear")
        inputs[:, :1] = shown.to(inputs.device)
        return self.inferer(inputs, network)


def write_scan(folder: Path, size: Size, channels: int) -> torch.Tensor:
    """Write a scan of a body in air, int16, in LPS; return the distance to its structures in RAS, (X, Y, Z)."""
    rng = np.random.default_rng(0)
    axes = [np.linspace(-1.05, 1.05, n, dtype=np.float32) for n in size.image]
    body = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2 < 1
    distance = balls_image(1, size, torch.device("cpu"), reach=50.0).as_tensor()[0, 0]
    noise = rng.normal(300, 40, (*size.image, channels)).astype(np.int16)
    voxels = (noise + 100 * (distance.numpy() > 0)[..., None].astype(np.int16)) * body[..., None]
    affine = np.diag([-size.spacing, -size.spacing, size.spacing, 1.0])
    nib.save(nib.Nifti1Image(voxels[..., 0] if channels == 1 else voxels, affine), folder / "scan.nii.gz")
    return distance.flip(0, 1)


@contextmanager
def timed_transforms() -> Iterator[dict[str, float]]:
    """Yield the seconds of MONAI's transforms by class, nested ones apart."""
    seconds: dict[str, float] = defaultdict(float)
    original = compose.apply_transform

    def timed(transform: Any, *args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        try:
            return original(transform, *args, **kwargs)
        finally:
            seconds[type(transform).__name__] += time.process_time() - begin

    with mock.patch.object(compose, "apply_transform", timed):
        yield seconds


def run_job(size: str, networks: bool, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Run one case of a size in this process; return seconds, bytes and memory."""
    chosen = SIZES[size]
    keep_freed_memory()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as work:
        parser = common.read_bundle(chosen.bundle, {**chosen.overrides, **overrides}, "cpu")
        classes = parser["network_def"]["denoiser"]["num_classes"]
        names = {str(k): f"class {k}" if k else "background" for k in range(classes)}
        parser.update({"dataset_dir": work, "output_dir": f"{work}/output", "labels": names, "dicom_codes": {}})
        parser.update({"label_values": list(range(classes)), "calibrated": False, "network": "$@network_def.eval()"})
        parser["postprocessing::transforms::0::num_classes"] = classes
        distance = write_scan(Path(work), chosen, common.image_channels(parser))
        evaluator = parser.get_parsed_content("evaluator")
        pair = evaluator.network
        pair.logits, pair.prediction = True, "x0"
        pair.segmenter = DrawnSegmenter(in_fast_layout(pair.segmenter, "cpu"), classes, networks)
        pair.denoiser = DrawnDenoiser(in_fast_layout(pair.denoiser, "cpu"), networks)
        evaluator.inferer = Drawn(evaluator.inferer, distance)
        begin = time.perf_counter()
        with timed_transforms() as seconds:
            evaluator.run()
        total = time.perf_counter() - begin
        report = json.loads((Path(work) / "output" / "scan" / "scan_report.json").read_text())
        files = {path.name: path.stat().st_size for path in (Path(work) / "output" / "scan").iterdir()}
    return {
        "size": size,
        "total": total,
        "report": report["seconds"],
        "transforms": dict(seconds),
        "bytes": files,
        "peak_mib": common.peak_mib(),
    }


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--size", default="brain tumor")
    p.add_argument("--no_networks", action="store_true")
    p.add_argument("--overrides", type=json.loads, default={})
    a = p.parse_args()
    r = run_job(a.size, not a.no_networks, a.overrides)
    print(json.dumps(r, indent=1))
    print(sum(r["bytes"].values()) / 1e6, "MB")
