"""What does a GPU change? Answers against the CPU, seconds, memory, growth, compiled calls, training, rivals.

    python benchmarks/gpu.py --output_dir results            # about four minutes on one card
    python benchmarks/gpu.py --small --device cpu --output_dir results   # a dry run

Images are synthetic, and no scan is read or written. Parts that do not fit in `--seconds` are skipped and named. The
numbers go to `results_gpu.json`; `--render <file>` turns them into the table `results_gpu.md`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import common
from benchmarks.speed import growth, rivals
from benchmarks.speed.entries import CONTENDERS, Task
from monai_pdddpm.bundle import keep_freed_memory
from monai_pdddpm.data.phantom_distribution import make_phantom_scan
from monai_pdddpm.inferers import PDDDPMInferer
from monai_pdddpm.inferers.autocast import autocast
from monai_pdddpm.inferers.stopwatch import Stopwatch
from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.networks.weights import in_fast_layout

LESION = common.ROOT / "bundles" / "ms_lesion_mri_segmentation"
REACH = 6.0  # voxels around a surface over which the drawn pre-segmentation changes from sure to sure


@dataclass(frozen=True)
class Size:
    """One size of case: image, bundle, its overrides, and the balls that the pre-segmentation shows."""

    image: tuple[int, int, int]
    bundle: Path
    balls: int
    radius: float
    overrides: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = True
    spacing: float = 1.0


def _classes(count: int, window: int) -> dict[str, Any]:
    denoiser = "network_def::denoiser"
    found = {"segmenter_def::out_channels": count, f"{denoiser}::num_classes": count}
    return found | {f"{denoiser}::presegmentation_channels": count, "roi_size": [window] * 3}


SIZES = {
    "hippocampus": Size((40, 40, 40), common.HIPPOCAMPUS, 1, 10),
    "lesion": Size((140, 160, 130), LESION, 8, 4),
    "brain tumor": Size((240, 240, 155), LESION, 1, 25, _classes(5, 96), trained=False),
    "CT": Size((512, 512, 400), common.HIPPOCAMPUS, 1, 60, _classes(3, 96), trained=False),
}
TINY = [16, 16, 16]


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    sizes: Mapping[str, Size]
    members: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)
    edges: Sequence[int] = (96, 128, 192, 256, 384, 512)
    window: int = 96
    windows: Sequence[int] | None = None  # all windows of the single-window parts, None for the bundle's own
    batches: Sequence[int] = (1, 8, 32)
    compiled_batch: int = 8
    training: Sequence[int] = (4, 16)
    repeats: int = 10
    drawn: int = 8
    first_steps: int = 0  # of the rivals' chains, 0 for all

    def overrides(self) -> dict[str, Any]:
        """Return the changes of a bundle for the parts with one window."""
        return {"roi_size": list(self.windows)} if self.windows else {}


FULL = Scale(SIZES)
DRY = Scale(
    {"hippocampus": Size((24, 24, 24), common.HIPPOCAMPUS, 1, 6, {"roi_size": TINY})},
    members=(1, 2),
    edges=(24,),
    window=16,
    windows=TINY,
    batches=(1,),
    training=(1,),
    repeats=1,
    drawn=2,
    first_steps=1,
)


class DrawnAnswer(nn.Module):
    """A segmenter whose answer is the first image channel: class 1 where it is above 0, unsure where it is near 0.

    Args:
        segmenter: runs as well, for its time.
    """

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K, ...) of an image (B, C, ...)."""
        logits = torch.full_like(self.segmenter(image), -growth.SURE)
        logits[:, 0], logits[:, 1] = 0.0, image[:, 0]
        return logits


def balls_image(channels: int, size: Size, device: torch.device, reach: float = REACH) -> MetaTensor:
    """Return noise, (1, C, X, Y, Z), whose first channel is the distance to the surface of the size's balls."""
    generator = torch.Generator().manual_seed(0)
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in size.image]
    signed = torch.full(size.image, -reach, device=device)
    for _ in range(size.balls):
        place = 0.5 + (0.6 * torch.rand(3, generator=generator) - 0.3) * (size.balls > 1)
        squares = [(axis - p * len(axis)) ** 2 for axis, p in zip(axes, place.tolist(), strict=True)]
        distance = (squares[0][:, None, None] + squares[1][:, None] + squares[2]).sqrt_()
        torch.maximum(signed, (size.radius - distance).clamp_(-reach, reach), out=signed)
    image = torch.randn(1, channels, *size.image, device=device)
    image[0, 0] = signed
    return MetaTensor(image)


def phantom_image(size: Sequence[int]) -> torch.Tensor:
    """Return a normalized phantom, (1, 1, X, Y, Z)."""
    image = torch.as_tensor(np.asarray(make_phantom_scan(size, (1.0, 1.0, 1.0)).image), dtype=torch.float32)
    return ((image - image.mean()) / image.std())[None, None]


@dataclass
class Bench:
    """A run: device, scale, the clock of the whole run."""

    device: torch.device
    scale: Scale
    seconds: float
    begin: float = field(default_factory=time.monotonic)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def has(self, seconds: float, name: str) -> bool:
        """Return whether so many seconds are left; name what is skipped otherwise."""
        enough = time.monotonic() - self.begin + seconds < self.seconds
        if not enough:
            self.skipped.append(name)
        return enough

    def attempt(self, name: str, work: Callable[[], Any]) -> Any:
        """Return the result of a measurement, None if it fails; the reason is kept."""
        try:
            return work()
        except Exception as error:  # one measurement never stops the others
            traceback.print_exc()
            self.failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            return None
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def time_calls(self, work: Callable[[], Any], repeats: int | None = None) -> dict[str, float]:
        """Return median and quartiles of a call's seconds, after two calls that are not counted."""
        for _ in range(2 if self.device.type == "cuda" else 1):
            work()
        found = []
        for _ in range(repeats or self.scale.repeats):
            watch = Stopwatch(self.device)
            with watch("call"):
                work()
            found.append(watch.seconds["call"])
        return common.quartiles(found)

    def peak_reset(self) -> None:
        """Forget the peak of the GPU's memory."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> float | None:
        """Return the peak of the GPU's memory in MiB since the last reset, None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) / 2**20 if self.device.type == "cuda" else None


def correctness(bench: Bench) -> list[dict[str, Any]]:
    """Compare answers with those of the CPU in float32: same weights, image, noise and windows."""
    rows = []
    for bundle, size in ((common.HIPPOCAMPUS, (40, 52, 40)), (common.PHANTOM, (48, 56, 40))):
        image, answers = phantom_image(bench.scale.windows or size), {}
        kinds = [("cpu", "float32", False), ("cpu", "bfloat16", False)]
        if bench.device.type == "cuda":
            kinds += [
                (str(bench.device), *kind) for kind in (("float32", False), ("float32", True), ("bfloat16", True))
            ]
        for device, precision, tf32 in kinds:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            overrides = {**bench.scale.overrides(), "members": bench.scale.drawn, "precision": precision}
            overrides["windows"] = "all"
            parser = common.read_bundle(bundle, overrides, device)
            parts, run = common.run_inferer(common.make_inferer(parser), common.load_pair(parser), image.to(device))
            answers[device, precision, tf32] = {name: x.cpu() for name, x in parts.items()}, run
        reference = answers["cpu", "float32", False][0]
        for (device, precision, tf32), (parts, run) in answers.items():
            row = {"bundle": bundle.name, "device": device, "precision": precision, "tf32": tf32}
            row |= {"members": run.config.members, "seconds": sum(run.seconds.values())}
            for name in ("pred", "variance", "preseg"):
                row[f"{name} largest difference"] = float((parts[name] - reference[name]).abs().max())
                row[f"{name} mean difference"] = float((parts[name] - reference[name]).abs().mean())
            changed = parts["pred"].argmax(0) != reference["pred"].argmax(0)
            row["labels changed, voxels"] = int(changed.sum())
            row["structure, voxels"] = int((reference["pred"].argmax(0) > 0).sum())
            rows.append(row)
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default
    torch.backends.cuda.matmul.allow_tf32 = False
    return rows


def pair_of(size: Size, parser: ConfigParser) -> PDDDPM:
    """Return the networks of a size, whose pre-segmentation is drawn."""
    pair = common.load_pair(parser) if size.trained else parser.get_parsed_content("network_def")
    pair.segmenter, pair.logits = DrawnAnswer(pair.segmenter), True
    return in_fast_layout(pair.to(parser["device"]).eval(), parser["device"])


def one_size(bench: Bench, name: str, size: Size) -> dict[str, Any]:
    """Measure the networks' seconds of one size: stages, total, windows, memory."""
    parser = common.read_bundle(size.bundle, {**size.overrides, "members": bench.scale.drawn}, str(bench.device))
    channels, inferer, pair = common.image_channels(parser), common.make_inferer(parser), pair_of(size, parser)
    warm = replace(size, image=tuple(min(a, b) for a, b in zip(size.image, parser["roi_size"], strict=True)), radius=8)
    inferer(balls_image(channels, warm, bench.device), pair)
    image = balls_image(channels, size, bench.device)
    runs = []
    while len(runs) < (3 if np.prod(size.image) < 1e7 else 1):
        bench.peak_reset()
        watch = Stopwatch(bench.device)
        with watch("total"):
            output = inferer(image, pair)
        info = output.meta["ensemble_run"][0]  # type: ignore[attr-defined]
        runs.append({**info.seconds, **watch.seconds})
        home = str(output.device)
        del output
    median = {stage: float(np.median([run[stage] for run in runs])) for stage in runs[0]}
    return {
        "size": name,
        "image": list(size.image),
        "channels": channels,
        "classes": pair.num_classes,
        "window": list(parser["roi_size"]),
        "members": info.config.members,
        "steps": len(inferer.chain.time_steps),
        "windows": info.windows_run + info.windows_skipped,
        "windows_run": info.windows_run,
        "runs": len(runs),
        "seconds": median,
        "volumes_on": home,
        "gpu_peak_mib": bench.peak(),
        "cpu_peak_mib": common.peak_mib(),
    }


def sizes(bench: Bench) -> list[dict[str, Any]]:
    """Measure the four sizes."""
    allow = {"hippocampus": 3, "lesion": 8, "brain tumor": 15, "CT": 60}
    rows = [
        bench.attempt(f"size {name}", lambda n=name, s=size: one_size(bench, n, s))
        for name, size in bench.scale.sizes.items()
        if bench.has(allow[name], f"size {name}")
    ]
    return [row for row in rows if row]


def growth_of(bench: Bench, curve: str) -> dict[str, Any]:
    """Measure time and memory over members or voxels, and fit the exponent."""
    bundle, device = str(common.HIPPOCAMPUS), str(bench.device)
    if curve == "members":
        values, overrides = bench.scale.members, bench.scale.overrides()
    else:
        values, overrides = bench.scale.edges, {"roi_size": [bench.scale.window] * 3}
    rows: list[dict[str, Any]] = []
    for value in values:
        last = rows[-1]["seconds"]["total"]["median"] if rows else 1.0
        if not bench.has(4 * last + 1, f"growth {curve} {value}"):
            continue
        bench.peak_reset()
        point = bench.attempt(
            f"growth {curve} {value}",
            lambda v=value: growth.run_point(curve, v, bundle, device, overrides, repeats=3, seconds=3),
        )
        if point is None:
            break
        rows.append({key: item for key, item in point.items() if key != "yardstick_seconds"})
    found: dict[str, Any] = {"rows": rows}
    late = [(growth.amount(row), row["seconds"]["total"]["median"]) for row in rows][-4:]
    if len(late) > 1:
        x, y = np.log(np.array(late).T)
        found["exponent"] = float(np.polyfit(x, y, 1)[0])
    return found


def calls(bench: Bench, compiled: bool = False) -> list[dict[str, Any]]:
    """Time a call of the denoiser and of the segmenter: eager, channels last, as a CUDA graph; or compiled."""
    rows = []
    modes = ("compiled", "compiled, reduce-overhead") if compiled else ("eager", "channels last", "CUDA graph")
    for name in ("denoiser", "segmenter"):
        batches = (bench.scale.compiled_batch,) if compiled else bench.scale.batches
        for batch in batches if name == "denoiser" else (1,):
            for mode in modes if bench.device.type == "cuda" else modes[:1]:
                label = f"call {name} {batch} {mode}"
                if bench.has(40 if compiled else 2, label):
                    row = bench.attempt(label, lambda n=name, b=batch, m=mode: one_call(bench, n, b, m))
                    rows += [row] if row else []
    return rows


def one_call(bench: Bench, name: str, batch: int, mode: str) -> dict[str, Any]:
    """Time one way to call a network."""
    parser = common.read_bundle(common.HIPPOCAMPUS, bench.scale.overrides(), str(bench.device))
    pair, roi, precision = common.load_pair(parser), parser["roi_size"], "bfloat16"
    image = torch.randn(1, 1, *roi, device=bench.device)
    x = torch.randn(batch, pair.num_classes, *roi, device=bench.device)
    t = torch.full([1], 500, device=bench.device)
    if mode == "channels last":
        pair = pair.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        x, image = (v.contiguous(memory_format=torch.channels_last_3d) for v in (x, image))
    with torch.no_grad(), autocast(bench.device, precision):
        features = [f.clone() for f in pair.encode(image, pair.prepare_presegmentation(pair.segment(image)))]
    denoise: Callable[..., torch.Tensor] = pair.denoiser.denoise
    segment: Callable[..., torch.Tensor] = pair.segmenter
    options = {"mode": "reduce-overhead"} if "reduce" in mode else {}
    if "compiled" in mode:
        torch._dynamo.reset()
        denoise, segment = torch.compile(denoise, **options), torch.compile(segment, **options)

    def work() -> torch.Tensor:
        with torch.no_grad(), autocast(bench.device, precision):
            return denoise(x, t, features) if name == "denoiser" else segment(image)

    begin = time.monotonic()
    with torch.no_grad(), autocast(bench.device, precision):
        expected = pair.denoiser.denoise(x, t, features) if name == "denoiser" else pair.segmenter(image)
    run: Callable[[], Any] = captured(work) if mode == "CUDA graph" else work
    bench.peak_reset()
    answer = run().clone()
    ready = time.monotonic() - begin
    seconds = bench.time_calls(run)
    difference = float((answer.float() - expected.float()).abs().max())
    row = {"network": name, "batch": batch, "mode": mode, "seconds": seconds, "ready_seconds": ready}
    return row | {"largest difference": difference, "gpu_peak_mib": bench.peak()}


def captured(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Capture a call in a CUDA graph and return its replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = work()

    def replay() -> torch.Tensor:
        graph.replay()
        return output

    return replay


def training(bench: Bench, mode: str = "eager") -> list[dict[str, Any]]:
    """Time training steps of both stages on synthetic windows, with the losses and inferers of the bundle."""
    rows = []
    for stage, file in (("segmenter", "train_segmenter.json"), ("denoiser", "train.json")):
        for batch in bench.scale.training if mode == "eager" else bench.scale.training[-1:]:
            label = f"training {stage} {batch} {mode}"
            if bench.has(4 if mode == "eager" else 45, label):
                row = bench.attempt(label, lambda s=stage, f=file, b=batch: training_step(bench, s, f, b, mode))
                rows += [row] if row else []
    return rows


def training_step(bench: Bench, stage: str, file: str, batch: int, mode: str) -> dict[str, Any]:
    """Time one training step: forward, loss, backward, optimizer."""
    parser = ConfigParser()
    parser.read_config(common.HIPPOCAMPUS / "configs" / file)
    parser.update({"bundle_root": str(common.HIPPOCAMPUS), "device": str(bench.device)})
    pair, loss_function = parser.get_parsed_content("network_def").to(bench.device), parser.get_parsed_content("loss")
    image = torch.cat([phantom_image(bench.scale.windows or parser["roi_size"])] * batch).to(bench.device)
    image = image + 0.1 * torch.randn_like(image)
    label = (image > 0.5).float() + (image > 1.5).float()
    if stage == "segmenter":
        network = pair.train()
        call = torch.compile(network) if mode == "compiled" else network

        def loss() -> torch.Tensor:
            with autocast(bench.device, "bfloat16"):
                logits = call(image)
            return loss_function(logits.float(), label)
    else:
        network, inferer = pair.train().denoiser, parser.get_parsed_content("train::inferer")
        if mode == "compiled":
            network.denoise = torch.compile(network.denoise)  # type: ignore[method-assign, assignment]

        def loss() -> torch.Tensor:
            return loss_function(inferer(image, pair, label), label)

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    torch._dynamo.reset()
    bench.peak_reset()
    begin = time.monotonic()
    for _ in range(min(bench.scale.repeats, 12)):  # meets most numbers of solver steps
        step()
    ready = time.monotonic() - begin
    seconds = bench.time_calls(step, repeats=2 * bench.scale.repeats)
    row = {"stage": stage, "batch": batch, "mode": mode, "seconds": seconds, "ready_seconds": ready}
    return row | {"samples_per_second": batch / seconds["median"], "gpu_peak_mib": bench.peak()}


def contenders(bench: Bench) -> list[dict[str, Any]]:
    """Time the bundle and its rivals on one window with all members; long chains over their first steps."""
    task = Task(common.HIPPOCAMPUS, str(bench.device), {**bench.scale.overrides(), "windows": "all"})
    image = MetaTensor(phantom_image(task.parser()["roi_size"]).to(bench.device))
    timed = {"ours": 0, "ours_one": 0, "segmenter": 0, "segmenter_flips": 0, "segmenter_ensemble": 0}
    timed |= {"fast_ddpm": 0, "ddim": 10, "ddpm": 50}
    rows = []
    for name, steps in timed.items():
        if bench.scale.first_steps and name not in ("ours", "segmenter", "fast_ddpm"):
            continue
        if bench.has(10, f"contender {name}"):
            steps = bench.scale.first_steps or steps
            row = bench.attempt(f"contender {name}", lambda n=name, s=steps: one_contender(bench, task, n, s, image))
            rows += [row] if row else []
    return rows


def one_contender(bench: Bench, task: Task, name: str, steps: int, image: MetaTensor) -> dict[str, Any]:
    """Time one contender; the seconds of its chain are multiplied if only its first steps ran."""
    entry = CONTENDERS[name].build(task)
    whole = entry.chain
    count = len(whole.time_steps) if whole else 0
    if whole and isinstance(entry.inferer, PDDDPMInferer):
        entry.inferer.chain = rivals.first_steps(whole, min(count, steps or count))
        count_timed = len(entry.inferer.chain.time_steps)
    else:
        count_timed = 0
    bench.peak_reset()
    seconds = bench.time_calls(lambda: entry.inferer(image, entry.network), 2 if count > 10 else 5)
    factor = count / count_timed if count_timed else 1.0
    members = entry.passes if isinstance(entry.inferer, rivals.SegmenterPasses) else entry.inferer.config.members
    row = {"contender": CONTENDERS[name].title, "members": members, "steps": count, "timed_steps": count_timed}
    row["seconds"] = {key: factor * value for key, value in seconds.items()}
    return row | {"gpu_peak_mib": bench.peak()}


PARTS: dict[str, Callable[[Bench], Any]] = {
    "correctness": correctness,
    "sizes": sizes,
    "members": lambda bench: growth_of(bench, "members"),
    "contenders": contenders,
    "training": training,
    "calls": calls,
    "voxels": lambda bench: growth_of(bench, "volume"),
    "compiled calls": lambda bench: calls(bench, compiled=True) if bench.device.type == "cuda" else [],
    "compiled training": lambda bench: training(bench, "compiled") if bench.device.type == "cuda" else [],
}


def versions(device: torch.device) -> dict[str, Any]:
    """Describe card and software."""
    import monai

    found = {**common.machine(str(device)), "python": platform.python_version(), "monai": monai.__version__}
    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "memory_mib": total / 2**20}
    return found


def render(content: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    number, parts = common.number, content["parts"]
    text = [f"{json.dumps(content['machine'])}. Measured at {content['at']} in {content['wall_seconds']:.0f} s."]

    def section(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            text.append(f"### {title}\n\n{common.table(head, rows)}")

    def peak(row: Mapping[str, Any]) -> str:
        return "-" if row["gpu_peak_mib"] is None else f"{row['gpu_peak_mib']:.0f}"

    section(
        "Against float32 on the CPU",
        ["bundle", "device", "precision", "largest difference of the answer", "of the variance", "labels changed"],
        [
            [
                row["bundle"],
                row["device"],
                row["precision"] + (", TF32" if row["tf32"] and row["precision"] == "float32" else ""),
                *(f"{row[f'{name} largest difference']:.2g}" for name in ("pred", "variance")),
                f"{row['labels changed, voxels']} of {row['structure, voxels']}",
            ]
            for row in parts.get("correctness") or []
        ],
    )
    stages = ("segment", "noise", "encode", "chain", "blend", "statistics", "total")
    section(
        "Four sizes, seconds of the networks",
        ["size", "voxels", "windows run", "members x steps", *stages, "GPU peak MiB"],
        [
            [
                row["size"],
                " x ".join(map(str, row["image"])) + f" x {row['channels']}, {row['classes']} classes",
                f"{row['windows_run']} of {row['windows']}",
                f"{row['members']} x {row['steps']}",
                *(number(row["seconds"].get(stage, 0.0)) for stage in stages),
                peak(row),
            ]
            for row in parts.get("sizes") or []
        ],
    )
    for part, unit in (("members", "members"), ("voxels", "edge of the cube")):
        found = parts.get(part) or {"rows": []}
        rows = [
            [row["value"], *(number(row["seconds"][s]["median"]) for s in growth.STAGES), peak(row)]
            for row in found["rows"]
        ]
        exponent = f", exponent {found['exponent']:.2f}" if "exponent" in found else ""
        section(f"Growth over {part}{exponent}", [unit, *(f"{s} s" for s in growth.STAGES), "GPU peak MiB"], rows)
    section(
        "Contenders, one window of 40 x 56 x 40",
        ["contender", "members", "steps", "seconds", "GPU peak MiB"],
        [
            [
                row["contender"] + (" (scaled)" if row["timed_steps"] < row["steps"] else ""),
                row["members"],
                row["steps"] or "-",
                common.with_quartiles(row["seconds"]),
                peak(row),
            ]
            for row in parts.get("contenders") or []
        ],
    )
    section(
        "One training step, windows of 40 x 56 x 40",
        ["stage", "batch", "mode", "seconds", "windows a second", "GPU peak MiB"],
        [
            [
                *(row[key] for key in ("stage", "batch", "mode")),
                common.with_quartiles(row["seconds"]),
                number(row["samples_per_second"]),
                peak(row),
            ]
            for row in [*(parts.get("training") or []), *(parts.get("compiled training") or [])]
        ],
    )
    section(
        "One call, window of 40 x 56 x 40, bfloat16",
        ["network", "batch", "mode", "seconds", "seconds until ready", "largest difference", "GPU peak MiB"],
        [
            [
                *(row[key] for key in ("network", "batch", "mode")),
                common.with_quartiles(row["seconds"]),
                number(row["ready_seconds"]),
                f"{row['largest difference']:.2g}",
                peak(row),
            ]
            for row in [*(parts.get("calls") or []), *(parts.get("compiled calls") or [])]
        ],
    )
    if content["skipped"]:
        text.append(f"Skipped for time: {', '.join(content['skipped'])}.")
    text += [f"Failed: {name}: {reason}." for name, reason in content["failed"].items()]
    return "\n\n".join(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all parts and write numbers and table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default=common.default_device())
    options.add_argument("--small", action="store_true", help="a dry run with small sizes")
    options.add_argument("--seconds", type=float, default=230, help="what does not fit in this time is skipped")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--output_dir", type=Path, default=Path(__file__).resolve().parent / "speed")
    options.add_argument("--render", type=Path, help="only write the table of this JSON file, beside it")
    args = options.parse_args(argv)
    if args.render:
        content = json.loads(args.render.read_text(encoding="utf-8"))
        args.render.with_suffix(".md").write_text(render(content) + "\n", encoding="utf-8")
        return
    keep_freed_memory()
    torch.manual_seed(0)
    bench = Bench(torch.device(args.device), DRY if args.small else FULL, args.seconds)
    content = {"machine": versions(bench.device), **common.stamp(), "small": args.small, "parts": {}}
    for name in args.parts:
        print(f"{time.monotonic() - bench.begin:6.1f} s  {name}", flush=True)
        content["parts"][name] = bench.attempt(name, lambda n=name: PARTS[n](bench)) if bench.has(2, name) else None
        content |= {"wall_seconds": time.monotonic() - bench.begin, "skipped": bench.skipped, "failed": bench.failed}
        common.write_json(args.output_dir / "results_gpu.json", content)  # what is measured is kept
    common.write_results(args.output_dir, "results_gpu", content, render(content))


if __name__ == "__main__":
    main()
