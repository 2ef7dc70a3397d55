"""Where do the seconds of a case go, from its file to its maps?

    python benchmarks/speed/budget.py
    python benchmarks/speed/budget.py --sizes "brain tumor" --no_networks

The bundle's own run reads a synthetic scan and writes all files. Networks run for their time, but their answers are
drawn (`drawn.py`). Stages are given in processor seconds, which other programs of the computer do not change; with two
threads the seconds of the clock are between half of them and all.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import common
from benchmarks.speed.drawn import SIZES, Size, distance_image, drawn_pair

NETWORKS = ("segment", "noise", "encode", "chain", "blend", "statistics")
GROUPS = {
    "read": ("LoadImageScand", "CheckImaged", "CopyItemsd"),
    "preprocess": ("Orientationd", "Spacingd", "NormalizeIntensityd", "ScaleIntensityRangePercentilesd"),
    **{stage: (stage,) for stage in NETWORKS},
    "inverse": ("EnsembleMapsd",),
    "summary": ("CaseSummaryd",),
    "write": ("SaveImageMapsd",),
    "picture": ("overview",),
}


class OnDistances(Inferer):
    """The bundle's inferer, on the scan with the distance to the structures as its first channel."""

    def __init__(self, inferer: Any, distance: torch.Tensor) -> None:
        super().__init__()
        self.inferer, self.distance = inferer, distance

    def __call__(self, inputs: MetaTensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        """Return the inferer's output."""
        inputs[:, :1] = F.interpolate(self.distance[None, None], inputs.shape[2:], mode="trilinear")
        return self.inferer(inputs, network)


def write_scan(folder: Path, size: Size, channels: int) -> torch.Tensor:
    """Write a scan of a body in air, int16, in LPS; return the distance to its structures in RAS, (X, Y, Z)."""
    rng = np.random.default_rng(0)
    axes = [np.linspace(-1.05, 1.05, n, dtype=np.float32) for n in size.image]
    body = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2 < 1
    distance = distance_image(size).as_tensor()[0, 0]
    noise = rng.normal(300, 40, (*size.image, channels)).astype(np.int16)
    voxels = (noise + 100 * (distance.numpy() > 0)[..., None].astype(np.int16)) * body[..., None]
    nib.save(
        nib.Nifti1Image(voxels[..., 0] if channels == 1 else voxels, np.diag([-1.0, -1, 1, 1])), folder / "scan.nii.gz"
    )
    return distance.flip(0, 1)


@contextmanager
def processor_clock() -> Iterator[dict[str, float]]:
    """Let every stopwatch count processor seconds; yield those of MONAI's transforms by class."""
    seconds: dict[str, float] = defaultdict(float)
    original = compose.apply_transform

    def timed(transform: Any, *args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        try:
            return original(transform, *args, **kwargs)
        finally:
            seconds[type(transform).__name__] += time.process_time() - begin

    with mock.patch.object(compose, "apply_transform", timed), mock.patch("time.perf_counter", time.process_time):
        yield seconds


def run_job(size: str, device: str, networks: bool, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Run one case of a size in this process; return processor seconds and bytes."""
    chosen = SIZES[size]
    with tempfile.TemporaryDirectory() as work:
        parser = common.read_bundle(chosen.bundle, {**chosen.overrides, **overrides}, device)
        classes = parser["network_def"]["denoiser"]["num_classes"]
        names = {str(k): f"class {k}" if k else "background" for k in range(classes)}
        parser.update({"dataset_dir": work, "output_dir": f"{work}/output", "labels": names, "dicom_codes": {}})
        parser.update({"label_values": list(range(classes)), "calibrated": False, "network": "@network_def"})
        parser["postprocessing::transforms::0::num_classes"] = classes
        distance = write_scan(Path(work), chosen, common.image_channels(parser))
        evaluator = parser.get_parsed_content("evaluator")
        evaluator.network.prediction = "x0"
        drawn_pair(evaluator.network, device, networks)
        evaluator.inferer = OnDistances(evaluator.inferer, distance)
        wall = time.perf_counter()
        with processor_clock() as transforms:
            begin = time.process_time()
            evaluator.run()
            total = time.process_time() - begin
        wall = time.perf_counter() - wall
        folder = Path(work) / "output" / "scan"
        found = json.loads((folder / "scan_report.json").read_text(encoding="utf-8"))["seconds"] | transforms
        size_mb = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    seconds = {group: sum(found.get(name, 0.0) for name in names) for group, names in GROUPS.items()}
    row = {"size": size, "image": list(chosen.image), "classes": classes, "seconds": seconds, "total": total}
    return row | {"rest": total - sum(seconds.values()), "clock": wall, "megabytes": size_mb}


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the table, a column for each size."""
    lines = [[group, *(common.number(row["seconds"][group]) for row in rows)] for group in GROUPS]
    lines += [[name, *(common.number(row[name]) for row in rows)] for name in ("rest", "total", "clock", "megabytes")]
    lines.append(["peak MiB", *(common.memory_cell(row) for row in rows)])
    heads = [f"{row['size']}, {' x '.join(map(str, row['image']))}, {row['classes']} classes" for row in rows]
    return common.table(["processor seconds", *heads], lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the sizes and write the table."""
    options = common.measuring_options(__file__, __doc__)
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options.add_argument("--no_networks", action="store_true", help="measure the files only")
    args = options.parse_args(argv)
    rows = []
    for size in args.sizes:
        job = {"size": size, "device": args.device, "networks": not args.no_networks, "overrides": args.overrides}
        rows.append(common.measured(run_job, f"budget_{size}", job, args))
    about = f"{json.dumps(common.machine(args.device))}, {common.stamp()['at']}"
    name = f"results_budget_{torch.device(args.device).type}{'_files' if args.no_networks else ''}"
    common.write_results(args.output_dir, name, {"rows": rows}, f"{as_table(rows)}\n\n{about}")


if __name__ == "__main__":
    main()
