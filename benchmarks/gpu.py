"""What does a GPU change? Answers against the CPU, seconds, memory, growth, compiled calls, training.

    python benchmarks/gpu.py --output_dir results                        # about four minutes on one card
    python benchmarks/gpu.py --small --device cpu --output_dir results   # a dry run

Images are synthetic, and no scan is read or written. Parts that do not fit in `--seconds` are skipped and named. The
numbers go to `results_gpu.json`, on a CPU to `results_cpu.json`; `--render <file>` makes the table of such a file.
"""

from __future__ import annotations

import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.bundle import ConfigParser

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import common
from benchmarks.speed import growth
from benchmarks.speed.drawn import SIZES, Size
from monai_pdddpm.bundle import keep_freed_memory
from monai_pdddpm.data.phantom_distribution import make_phantom_scan
from monai_pdddpm.inferers.autocast import AutocastInferer, autocast
from monai_pdddpm.inferers.run_info import Stopwatch

Rows = list[dict[str, Any]]
_TITLES = {
    "correctness": "Against float32 on the CPU",
    "sizes": "Four sizes, seconds of the networks",
    "members": "Members, one window",
    "contenders": "Contenders, one window",
    "training": "A training step",
    "calls": "A call of a network, bfloat16",
    "voxels": "Voxels, one window with active voxels",
}
_HIDDEN = ("curve", "start_mib", "peak_mib", "cpu_peak_mib", "volumes_on", "windows_skipped")


@dataclass(frozen=True)
class Scale:
    """How much is measured; `windows` replaces the windows of the bundles."""

    sizes: Mapping[str, Size]
    members: Sequence[int] = growth.CURVES["members"]
    edges: Sequence[int] = (96, 128, 192, 256, 384, 512)
    window: int = 96
    windows: Sequence[int] | None = None
    batches: Sequence[int] = (1, 8, 32)
    training: Sequence[int] = (4, 16)
    repeats: int = 10
    drawn: int = 8

    @property
    def overrides(self) -> dict[str, Any]:
        """The changes of a bundle for the parts with one window."""
        return {"roi_size": list(self.windows)} if self.windows else {}


_TINY = Size((24, 24, 24), common.HIPPOCAMPUS, 1, 6, {"roi_size": [16, 16, 16]})
FULL = Scale(SIZES)
DRY = Scale({"hippocampus": _TINY}, (1, 2), (24,), 16, (16, 16, 16), (1,), (1,), 1, 2)


def phantom_image(size: Sequence[int]) -> torch.Tensor:
    """Return a normalized phantom, (1, 1, X, Y, Z)."""
    image = torch.as_tensor(make_phantom_scan(size, (1.0, 1.0, 1.0)).image.astype(np.float32))
    return ((image - image.mean()) / image.std())[None, None]


@dataclass
class Bench:
    """A run: device, scale, and the clock of the whole run."""

    device: torch.device
    scale: Scale
    seconds: float
    begin: float = field(default_factory=time.monotonic)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def attempt(self, rows: Rows, seconds: float, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Append a measurement; name it if it fails, or if fewer seconds are left than it may need."""
        if time.monotonic() - self.begin + seconds >= self.seconds:
            self.skipped.append(name)
            return
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            row = work()
        except Exception as error:  # one measurement never stops the others
            traceback.print_exc()
            self.failed[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            return
        row["gpu_peak_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20 if self.cuda else None
        rows.append(row)

    def time_calls(self, work: Callable[[], Any], repeats: int) -> dict[str, float]:
        """Return median and quartiles of a call's seconds, after two calls that are not counted."""
        found = []
        for _ in range(repeats + 2):
            watch = Stopwatch(self.device)
            with watch("call"):
                work()
            found.append(watch.seconds["call"])
        return common.quartiles(found[2:])

    def bundle(self, bundle: Path, **overrides: Any) -> ConfigParser:
        """Read a bundle for the device."""
        return common.read_bundle(bundle, overrides, str(self.device))


def correctness(bench: Bench) -> Rows:
    """Compare answers with those of the CPU in float32: same weights, image, noise and windows."""
    rows: Rows = []
    kinds = [("cpu", "float32", False), ("cpu", "bfloat16", False)]
    if bench.cuda:
        kinds += [(str(bench.device), *kind) for kind in (("float32", False), ("float32", True), ("bfloat16", True))]
    for bundle, size in ((common.HIPPOCAMPUS, (40, 52, 40)), (common.PHANTOM, (48, 56, 40))):
        image, reference = phantom_image(bench.scale.windows or size), {}
        for device, precision, tf32 in kinds:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            overrides = bench.scale.overrides | {"members": bench.scale.drawn, "precision": precision, "windows": "all"}
            parser = common.read_bundle(bundle, overrides, device)
            parts, run = common.run_inferer(common.make_inferer(parser), common.load_pair(parser), image.to(device))
            parts = {name: x.cpu() for name, x in parts.items()}
            reference = reference or parts
            row = {"bundle": bundle.name, "device": device, "tf32": tf32}
            row |= {
                "precision": precision + ", TF32" * (tf32 and precision == "float32"),
                "members": run.config.members,
            }
            for name in ("pred", "variance", "preseg"):
                row[f"{name} largest difference"] = float((parts[name] - reference[name]).abs().max())
            labels, expected = parts["pred"].argmax(0), reference["pred"].argmax(0)
            row["labels changed, voxels"] = int((labels != expected).sum())
            rows.append(row | {"structure, voxels": int((expected > 0).sum())})
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False  # PyTorch's defaults
    return rows


def sizes(bench: Bench) -> Rows:
    """Measure the four sizes."""
    rows: Rows = []
    for name, size in bench.scale.sizes.items():
        voxels = np.prod(size.image) / 1e6
        runs = 3 if voxels < 10 else 1
        work = partial(growth.one_case, size, str(bench.device), runs, members=bench.scale.drawn)
        bench.attempt(rows, 3 + voxels / 2, f"size {name}", lambda n=name, w=work: {"size": n, **w()})
    return rows


def curve(bench: Bench, name: str) -> dict[str, Any]:
    """Measure time and memory over members or voxels, and fit the exponent of the last points."""
    rows: Rows = []
    for value in bench.scale.members if name == "members" else bench.scale.edges:
        size, overrides = growth.point(name, value, bench.scale.window, bench.scale.windows or (40, 56, 40))
        last = rows[-1]["seconds"]["total"] if rows else 1.0
        work = partial(growth.one_case, size, str(bench.device), 3 if last < 1 else 1, **overrides)
        bench.attempt(rows, 8 * last + 1, f"growth {name} {value}", lambda v=value, w=work: {name: v, **w()})
    amounts = [row["members"] if name == "members" else float(np.prod(row["image"])) for row in rows]
    found = growth.exponent(amounts, [row["seconds"]["total"] for row in rows])
    return {"rows": rows} if found is None else {"rows": rows, "exponent": found}


def training(bench: Bench) -> Rows:
    """Time training steps of both stages on synthetic windows, with the losses and inferers of the bundle."""
    rows: Rows = []
    for stage, file in (("segmenter", "train_segmenter.json"), ("denoiser", "train.json")):
        for batch in bench.scale.training:
            work = partial(training_step, bench, stage, file, batch)
            bench.attempt(rows, 4, f"training {stage} {batch}", work)
    return rows


def training_step(bench: Bench, stage: str, file: str, batch: int) -> dict[str, Any]:
    """Time one training step: forward, loss, backward, optimizer."""
    parser = ConfigParser()
    parser.read_config(common.HIPPOCAMPUS / "configs" / file)
    parser.update({"bundle_root": str(common.HIPPOCAMPUS), "device": str(bench.device)})
    pair, loss_function = parser.get_parsed_content("network_def").to(bench.device), parser.get_parsed_content("loss")
    image = torch.cat([phantom_image(bench.scale.windows or parser["roi_size"])] * batch).to(bench.device)
    image = image + 0.1 * torch.randn_like(image)
    label = (image > 0.5).float() + (image > 1.5).float()
    network, inferer = pair.train(), AutocastInferer()
    if stage == "denoiser":
        network, inferer = pair.denoiser, partial(parser.get_parsed_content("train::inferer"), label=label)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss_function(inferer(image, pair), label).backward()
        optimizer.step()

    begin = time.monotonic()
    for _ in range(bench.scale.repeats):  # meets most numbers of solver steps
        step()
    ready = time.monotonic() - begin
    seconds = bench.time_calls(step, 2 * bench.scale.repeats)
    row = {"stage": stage, "batch": batch, "seconds": seconds, "ready_seconds": ready}
    return row | {"samples_per_second": batch / seconds["median"]}


def calls(bench: Bench, compiled: bool = False) -> Rows:
    """Time a call of the denoiser and of the segmenter: eager, channels last, as a CUDA graph; or compiled."""
    rows: Rows = []
    modes = ("compiled", "compiled, reduce-overhead") if compiled else ("eager", "channels last", "CUDA graph")
    for name, batches in (("denoiser", (8,) if compiled else bench.scale.batches), ("segmenter", (1,))):
        for batch in batches:
            for mode in modes if bench.cuda else modes[:1]:
                work = partial(one_call, bench, name, batch, mode)
                bench.attempt(rows, 40 if compiled else 2, f"call {name} {batch} {mode}", work)
    return rows


def one_call(bench: Bench, name: str, batch: int, mode: str) -> dict[str, Any]:
    """Time one way to call a network."""
    parser = bench.bundle(common.HIPPOCAMPUS, **bench.scale.overrides)
    pair, roi = common.load_pair(parser), parser["roi_size"]
    image = torch.randn(1, 1, *roi, device=bench.device)
    x = torch.randn(batch, pair.num_classes, *roi, device=bench.device)
    t = torch.full([1], 500, device=bench.device)
    if mode == "channels last":
        pair = pair.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        x, image = (v.contiguous(memory_format=torch.channels_last_3d) for v in (x, image))
    with torch.no_grad(), autocast(bench.device, "bfloat16"):
        features = [f.clone() for f in pair.encode(image, pair.prepare_presegmentation(pair.segment(image)))]
    network: Callable[..., torch.Tensor] = pair.denoiser.denoise if name == "denoiser" else pair.segmenter
    arguments = (x, t, features) if name == "denoiser" else (image,)

    def work(call: Callable[..., torch.Tensor] = network) -> torch.Tensor:
        with torch.no_grad(), autocast(bench.device, "bfloat16"):
            return call(*arguments)

    expected, begin = work().clone(), time.monotonic()
    run: Callable[[], torch.Tensor] = work
    if "compiled" in mode:
        torch._dynamo.reset()
        run = partial(work, torch.compile(network, mode="reduce-overhead" if "reduce" in mode else None))
    elif mode == "CUDA graph":
        run = captured(work)
    answer = run().clone()
    ready = time.monotonic() - begin
    row = {"network": name, "batch": batch, "mode": mode, "seconds": bench.time_calls(run, bench.scale.repeats)}
    return row | {"ready_seconds": ready, "largest difference": float((answer - expected).abs().max())}


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


PARTS: dict[str, Callable[[Bench], Any]] = {
    "correctness": correctness,
    "sizes": sizes,
    "members": partial(curve, name="members"),
    "training": training,
    "calls": calls,
    "voxels": partial(curve, name="voxels"),
    "compiled calls": lambda bench: calls(bench, compiled=True) if bench.cuda else [],
}


def versions(device: torch.device) -> dict[str, Any]:
    """Describe device and software."""
    found = {**common.machine(str(device)), "python": platform.python_version(), "monai": monai.__version__}
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[1] / 2**20
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "memory_mib": round(memory)}
    return found


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row's cells by column."""
    found: dict[str, str] = {}
    for key, value in row.items():
        if key in _HIDDEN or value is None:
            continue
        if isinstance(value, dict) and "median" not in value:
            found |= cells({f"{name} s": v if isinstance(v, dict) else float(v) for name, v in value.items()})
        elif isinstance(value, dict):
            found[key] = common.with_quartiles(value)
        elif isinstance(value, list):
            found[key] = " x ".join(map(str, value))
        else:
            found[key] = f"{value:.2g}" if "difference" in key else str(value)
            if isinstance(value, float) and "difference" not in key:
                found[key] = common.number(value)
    return {key.replace("_", " "): value for key, value in found.items()}


def render(content: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    text = [f"{json.dumps(content['machine'])}. Measured at {content['at']} in {content['wall_seconds']:.0f} s."]
    for part, title in _TITLES.items():
        found = content["parts"].get(part) or []
        rows = found["rows"] if isinstance(found, dict) else found + (content["parts"].get(f"compiled {part}") or [])
        exponent = f"; seconds grow with the power {found['exponent']:.2f}" if "exponent" in found else ""
        filled = [cells(row) for row in rows]
        columns = list(dict.fromkeys(key for row in filled for key in row))
        if rows:
            table = common.table(columns, [[row.get(key, "-") for key in columns] for row in filled])
            text.append(f"### {title}{exponent}\n\n{table}")
    if content["skipped"]:
        text.append(f"Skipped for time: {', '.join(content['skipped'])}.")
    return "\n\n".join([*text, *(f"Failed: {name}: {reason}." for name, reason in content["failed"].items())])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all parts and write numbers and table."""
    options = common.script_options(__file__, __doc__)
    options.set_defaults(output_dir=Path(__file__).resolve().parent / "speed")
    options.add_argument("--small", action="store_true", help="a dry run with small sizes")
    options.add_argument("--seconds", type=float, default=230, help="what does not fit in this time is skipped")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--render", type=Path, help="only write the table of this JSON file, beside it")
    args = options.parse_args(argv)
    if args.render:
        content = json.loads(args.render.read_text(encoding="utf-8"))
        args.render.with_suffix(".md").write_text(render(content) + "\n", encoding="utf-8")
        return
    keep_freed_memory()
    torch.manual_seed(0)
    bench = Bench(torch.device(args.device), DRY if args.small else FULL, args.seconds)
    name = "results_gpu" if bench.cuda else "results_cpu"
    content = {"machine": versions(bench.device), **common.stamp(), "small": args.small, "parts": {}}
    for part in args.parts:
        print(f"{time.monotonic() - bench.begin:6.1f} s  {part}", flush=True)
        content["parts"][part] = PARTS[part](bench)
        content |= {"wall_seconds": time.monotonic() - bench.begin, "skipped": bench.skipped, "failed": bench.failed}
        common.write_json(args.output_dir / f"{name}.json", content)  # what is measured is kept
    common.write_results(args.output_dir, name, content, render(content))


if __name__ == "__main__":
    main()
