"""Two looks inside our own networks: which operations the chain is made of, and which memory layout suits it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.contenders import CONTENDERS, Entry, Task, image_channels
from monai_pdddpm.inferers.autocast import autocast
from monai_pdddpm.inferers.chain import Stopwatch, reverse_chain

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
CLOSE_CONTENDERS = ("ours", "ddpm")


class Window:
    """One window of noise, of a bundle's size, and what the networks make of it ahead of the chain.

    Args:
        task: the bundle and the device.
        entry: the contender.
        members: batch of the chain.
    """

    def __init__(self, task: Task, entry: Entry, members: int) -> None:
        parser, pair = task.parser(), entry.pair
        roi, classes = parser["roi_size"], len(parser["labels"])
        self.entry, self.pair, self.precision = entry, pair, parser["precision"]
        self.device = torch.device(task.device)
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randn(1, image_channels(parser), *roi, generator=generator).to(self.device)
        draws = entry.chain.draws
        self.noise = [torch.randn(members, classes, *roi, generator=generator).to(self.device) for _ in range(draws)]
        with torch.no_grad(), autocast(self.device, self.precision):
            self.presegmentation = pair.propose(pair.segment(self.image))
            self.features = pair.encode(self.image, self.presegmentation)

    def run_chain(self) -> torch.Tensor:
        """Return the members, by the whole chain."""
        with torch.no_grad(), autocast(self.device, self.precision):
            return reverse_chain(self.pair, self.presegmentation, self.features, self.noise, self.entry.chain)


def share_of_convolutions(events: Sequence[Any], on_gpu: bool) -> float:
    """Return the share of the operations' own time that convolutions take.

    Args:
        events: averages over equal operations, as a profiler gives them.
        on_gpu: count the GPU's time, not the CPU's.
    """
    # the profiler lists a GPU's kernels beside the operations that started them
    operations = [event for event in events if event.key.startswith("aten::")]
    own = {event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total for event in operations}
    return sum(time for key, time in own.items() if "conv" in key) / max(1e-9, sum(own.values()))


def profile_chain(task: Task, repeats: int = 5, rows: int = 15) -> dict[str, Any]:
    """Profile our chain in one window, and the calls of our networks and of MONAI's.

    Args:
        task: the bundle and the device.
        repeats: profiles of each, whose shares are kept.
        rows: of the table.

    Returns:
        ``table``, the last profile's of the chain; ``convolutions``, their shares by what was run; ``seconds`` of the
        chain without the profiler.
    """
    entry = CONTENDERS["ours"].build(task)
    window = Window(task, entry, entry.inferer.members)  # type: ignore[attr-defined]
    on_gpu, steps = window.device.type == "cuda", len(entry.chain.time_steps)
    window.run_chain()
    watch = Stopwatch(window.device)
    with watch("chain"):
        window.run_chain()
    shares: dict[str, list[float]] = {}

    def look_at(what: str, work: Callable[[], Any]) -> Any:
        work()
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        for _ in range(repeats):
            with profile(activities=activities) as profiler:
                work()
            events = profiler.key_averages()
            shares.setdefault(what, []).append(share_of_convolutions(events, on_gpu))
        return events

    events = look_at("ours: the chain", window.run_chain)
    for name in CLOSE_CONTENDERS:
        entry = CONTENDERS[name].build(task)
        pair, seen = entry.pair, Window(task, entry, len(window.noise[0]))
        for what, (job, inputs) in jobs_of(seen, own_parts=name == "ours").items():
            with torch.no_grad(), autocast(window.device, window.precision):
                look_at(f"{CONTENDERS[name].title}: {what}", partial(job, pair, *inputs))
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return {
        "members": len(window.noise[0]),
        "num_steps": steps,
        "seconds": watch.seconds["chain"],
        "convolutions": shares,
        "table": events.table(sort_by=order, row_limit=rows, max_name_column_width=40),
    }


def in_layout(value: Any, layout: torch.memory_format) -> Any:
    """Return a tensor of five axes, or a list of them, in a memory layout; others as they are."""
    if isinstance(value, list):
        return [in_layout(item, layout) for item in value]
    return value.to(memory_format=layout) if value.dim() == 5 else value


def time_in_turns(
    works: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Return the median seconds and quartiles of several works, run in turns after one warm-up each."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(repeats):
        for name, work in works.items():
            watch = Stopwatch(device)
            with watch("work"):
                work()
            found[name].append(watch.seconds["work"])
    quartiles = {name: np.quantile(seconds, [0.25, 0.5, 0.75]) for name, seconds in found.items()}
    return {name: {"low": float(q[0]), "median": float(q[1]), "high": float(q[2])} for name, q in quartiles.items()}


def layouts(task: Task, repeats: int = 5, contenders: Sequence[str] = CLOSE_CONTENDERS) -> list[dict[str, Any]]:
    """Time the networks in both memory layouts; a line for each network and batch."""
    lines = []
    for name in contenders:
        entry = CONTENDERS[name].build(task)
        window = Window(task, entry, entry.inferer.members)  # type: ignore[attr-defined]
        pairs = {layout: copy.deepcopy(entry.pair).to(memory_format=LAYOUTS[layout]) for layout in LAYOUTS}
        for what, (job, inputs) in jobs_of(window, own_parts=name == "ours").items():
            works = {
                layout: partial(job, pairs[layout], *(in_layout(value, LAYOUTS[layout]) for value in inputs))
                for layout in LAYOUTS
            }
            with torch.no_grad(), autocast(window.device, window.precision):
                seconds = time_in_turns(works, repeats, window.device)
            ratio = seconds["channels_last_3d"]["median"] / seconds["contiguous"]["median"]
            lines.append({"contender": name, "network": what, "seconds": seconds, "ratio": ratio})
    return lines


def jobs_of(window: Window, own_parts: bool) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Return what is timed of a pair: {title: (function of the pair and inputs, inputs)}."""
    t, x = torch.full((1,), 500, device=window.device), window.noise[0]

    def denoise(pair: Any, x_t: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor:
        return pair.denoise(x_t, t, features)

    jobs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        f"denoiser, batch {batch}": (denoise, (x[:batch], window.features)) for batch in sorted({1, len(x)})
    }
    if own_parts:
        jobs["segmenter"] = (lambda pair, image: pair.segment(image), (window.image,))
        jobs["encoder"] = (lambda pair, image, p: pair.encode(image, p), (window.image, window.presegmentation))
    return jobs
