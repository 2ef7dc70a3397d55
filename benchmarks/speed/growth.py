"""How do time and memory grow with members, steps, voxels, cases and processes?

    python benchmarks/speed/growth.py
    python benchmarks/speed/growth.py --curves members volume --small

`members`, `steps` and `voxels` run the networks on one image; `volume` has drawn answers (`drawn.py`) and no networks,
so that statistics and memory of very large volumes are seen alone. `cases` and `processes` are whole runs of the
phantom bundle, its start included; the processes share the cores.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import common
from benchmarks.speed.drawn import Size, classes_and_window, distance_image, drawn_pair
from monai_pdddpm.data import write_phantom
from monai_pdddpm.inferers.run_info import Stopwatch

CURVES: dict[str, Sequence[int]] = {
    "members": (1, 2, 4, 8, 16, 32, 64),
    "steps": (1, 2, 3, 5, 10),
    "voxels": (64, 96, 128, 192),
    "volume": (128, 192, 256, 384, 512),
    "cases": (1, 10, 100, 500),
    "processes": (1, 2),
}
SMALL: dict[str, Sequence[int]] = dict.fromkeys(CURVES, (1, 2)) | dict.fromkeys(("voxels", "volume"), (16, 24))
MANY = 16  # cases of the curve over processes


def one_case(size: Size, device: str, runs: int, networks: bool = True, **overrides: Any) -> dict[str, Any]:
    """Measure the inferer on one image: median seconds of the stages, windows, bytes of the output.

    The segmenter's answer is drawn in any case. A run on a single window comes first.
    """
    parser = common.read_bundle(size.bundle, {**size.overrides, **overrides}, device)
    pair = common.load_pair(parser) if size.trained else parser.get_parsed_content("network_def")
    if not networks:
        pair.prediction = "x0"
    pair = drawn_pair(pair, device, runs=networks, members=not networks)
    inferer, seconds = common.make_inferer(parser), []
    channels, roi, output_bytes = common.image_channels(parser), parser["roi_size"], 0
    inferer(distance_image(replace(size, image=roi, radius=min(roi) / 3), channels, device), pair)  # warm-up
    image = distance_image(size, channels, device)
    for _ in range(runs):
        watch = Stopwatch(torch.device(device))
        with watch("total"):
            output = inferer(image, pair)
        info = output.meta["ensemble_run"][0]  # type: ignore[attr-defined]
        seconds.append({**info.seconds, **watch.seconds})
        output_bytes = output.numel() * output.element_size()
        del output
    row = {"image": list(size.image), "channels": channels, "classes": pair.num_classes, "window": list(roi)}
    row |= {"members": info.config.members, "steps": len(inferer.chain.time_steps), "runs": runs}
    row |= {"windows": info.windows_run + info.windows_skipped, "windows_run": info.windows_run}
    row |= {"evaluations": info.denoiser_evaluations, "output_mib": output_bytes / 2**20}
    return row | {"seconds": {stage: float(np.median([run[stage] for run in seconds])) for stage in seconds[0]}}


def point(curve: str, value: int, window: int = 96, image: Sequence[int] = (40, 56, 40)) -> tuple[Size, dict[str, Any]]:
    """Return size and overrides of one point of a curve: one window with all members, or a cube with a ball in it."""
    size = Size(tuple(image), common.HIPPOCAMPUS, 1, 8)  # type: ignore[arg-type]
    if curve in ("voxels", "volume"):
        whole = {"inferer::return_members": False, "members": 8, **classes_and_window(3, window)}
        return replace(size, image=(value,) * 3, trained=False), whole
    overrides = {"inferer::return_members": False, "windows": "all", "members": 8, "roi_size": list(image)}
    return size, overrides | {"members" if curve == "members" else "num_steps": value}


def whole_run(cases: int, processes: int, size: Sequence[int], **options: str) -> dict[str, Any]:
    """Run the phantom bundle's command on a folder of scans; return its seconds and the largest process's memory."""
    folder = common.PHANTOM / "configs"
    files = [str(folder / "inference.json")] + [str(folder / "multi_gpu_inference.json")] * (processes > 1)
    starter = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] * (processes > 1)
    with tempfile.TemporaryDirectory() as work:
        data, drawn = Path(work) / "data", min(cases, 4)
        write_phantom(data, train=1, validation=1, test=drawn, annotations=1, size=size)
        scans = sorted((data / "imagesTs").iterdir())
        for number in range(drawn, cases):
            shutil.copy(scans[number % drawn], data / "imagesTs" / f"copy_{number}.nii.gz")
        command = [sys.executable, *starter, "-m", "monai.bundle", "run", "inference", "--config_file", str(files)]
        options |= {"dataset_dir": str(data / "imagesTs"), "output_dir": f"{work}/output"}
        command += [word for key, value in options.items() for word in (f"--{key}", value)]
        threads = str(max(1, (os.cpu_count() or 1) // processes))
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
        begin = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        done = len(list(Path(work).glob("output/*/*_report.json")))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    row = {"cases": done, "processes": processes, "image": list(size), "seconds": {"total": seconds}}
    return row | {"start_mib": None, "peak_mib": peak, "gpu_peak_mib": None}


def run_job(curve: str, value: int, device: str, small: bool, repeats: int) -> dict[str, Any]:
    """Measure one point of a curve in this process."""
    if curve == "cases":
        return whole_run(value, 1, (16, 16, 16), members="2", num_steps="1", outputs="seg,prob")
    if curve == "processes":
        return whole_run(2 if small else MANY, value, (16, 16, 16) if small else (48, 56, 40))
    size, overrides = point(curve, value, *((16, (16, 16, 16)) if small else ()))
    return one_case(size, device, repeats if curve in ("members", "steps") else 1, curve != "volume", **overrides)


def exponent(amounts: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Return the slope of seconds over amounts on logarithmic axes, fitted to the last four points; None for one."""
    if len(amounts) < 2:
        return None
    return float(np.polyfit(np.log(amounts[-4:]), np.log(seconds[-4:]), 1)[0])


def as_table(curves: Mapping[str, Mapping[str, Any]]) -> str:
    """Format a table for each curve."""
    text = []
    for curve, found in curves.items():
        rows = []
        for value, row in zip(found["values"], found["rows"], strict=True):
            memory = row["gpu_peak_mib"] or row["peak_mib"]
            cells = [value, common.number(row["seconds"]["total"]), f"{memory:.0f}"]
            if "output_mib" in row:
                grown = memory - (0 if row["gpu_peak_mib"] else row["start_mib"])
                cells += [f"{row['evaluations']}", f"{row['output_mib']:.0f}", f"{grown / row['output_mib']:.2f}"]
            rows.append(cells)
        head = [curve, "seconds", "peak MiB"]
        head += ["denoiser evaluations", "output MiB", "growth / output"] * ("output_mib" in found["rows"][0])
        power = "" if found["exponent"] is None else f", seconds grow with the power {found['exponent']:.2f}"
        text.append(f"### {curve.capitalize()}{power}\n\n{common.table(head, rows)}")
    return "\n\n".join(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the curves and write their tables."""
    options = common.measuring_options(__file__, __doc__)
    options.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    options.add_argument("--small", action="store_true", help="a dry run with small sizes")
    options.add_argument("--most", type=int, default=10**9, help="leave out larger values")
    options.add_argument("--repeats", type=int, default=3)
    args = options.parse_args(argv)
    curves: dict[str, Any] = {}
    for curve in args.curves:
        values = [value for value in (SMALL if args.small else CURVES)[curve] if value <= args.most]
        rows = []
        for value in values:
            job = {"curve": curve, "value": value, "device": args.device, "small": args.small, "repeats": args.repeats}
            name = f"growth_{curve}_{value}{'_small' if args.small else ''}"
            rows.append(common.measured(run_job, name, job, args))
        amounts = [value**3 if curve in ("voxels", "volume") else value for value in values]
        found = exponent(amounts, [row["seconds"]["total"] for row in rows])
        curves[curve] = {"values": values, "exponent": found, "rows": rows}
    about = f"{json.dumps(common.machine(args.device))}, {common.stamp()['at']}"
    name = f"results_growth_{torch.device(args.device).type}"
    common.write_results(args.output_dir, name, curves, f"{as_table(curves)}\n\n{about}")


if __name__ == "__main__":
    main()
