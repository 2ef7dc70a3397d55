"""One contender, measured in the process that this is: seconds of each stage, memory, counts, Dice."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import SaveImaged
from tqdm import tqdm

from benchmarks.speed.contenders import CONTENDERS, Entry, Task, flops
from benchmarks.speed.costs import parameters
from benchmarks.speed.rivals import FirstSteps
from benchmarks.volume.volume import peak_mib, status_mib
from monai_pdddpm.data import LoadScand, case_name
from monai_pdddpm.data.loading import LoadScan
from monai_pdddpm.inferers.autocast import autocast
from monai_pdddpm.inferers.chain import Stopwatch
from monai_pdddpm.transforms.case_summary import agreement

STAGES = ("read", "preprocess", "segment", "noise", "encode", "chain", "blend", "statistics", "inverse", "write")
NETWORK_STAGES = ("segment", "noise", "encode", "chain", "blend", "statistics")
COUNTS = ("windows_run", "windows_skipped", "denoiser_evaluations")


class Pipeline:
    """A bundle's way from file to files, with a stopwatch beside it.

    Args:
        parser: of the bundle's ``inference.json``.
        output_dir: for the files; the parser is told.
    """

    def __init__(self, parser: ConfigParser, output_dir: str) -> None:
        parser.update({"output_dir": output_dir})
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.postprocessing = parser.get_parsed_content("postprocessing")
        self.device = torch.device(parser["device"])

    def __call__(self, entry: Entry, case: Mapping[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
        """Segment a case and write its files.

        Returns:
            what was run, with ``seconds`` of each stage and in ``total``; the label map on the scan's grid.
        """
        watch, begin = Stopwatch(self.device), time.perf_counter()
        item: Any = dict(case)
        for transform in self.preprocessing.transforms:
            with watch("read" if isinstance(transform, LoadScand) else "preprocess"):
                item = transform(item)
        with watch("preprocess"):
            image = item["image"][None].float().to(self.device)
        item["pred"] = entry.inferer(image, entry.network)[0]
        for transform in self.postprocessing.transforms:
            with watch("write" if isinstance(transform, SaveImaged) else "inverse"):
                item = transform(item)
        total = time.perf_counter() - begin
        ran = dict(item["inference"])
        ran["seconds"] = {**dict.fromkeys(STAGES, 0.0), **watch.seconds, **ran["seconds"], "total": total}
        return ran, item["seg"].as_tensor().cpu()[0]


def scaled(seconds: Mapping[str, float], factor: float) -> dict[str, float]:
    """Return seconds as they would be with a chain that is longer by a factor."""
    more = (factor - 1) * seconds["chain"]
    return {**seconds, "chain": seconds["chain"] + more, "total": seconds["total"] + more}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles."""
    low, median, high = np.quantile(np.asarray(values, dtype=float), [0.25, 0.5, 0.75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def timed_steps(all_steps: int, wanted: int, cases: int) -> int:
    """Return how many steps of a chain are timed in each case, so that all cases together have those wanted.

    Args:
        all_steps: of the whole chain.
        wanted: in all cases together; 0 means the whole chain.
        cases: their number.
    """
    return all_steps if wanted == 0 else min(all_steps, math.ceil(wanted / cases))


def by_case(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return for each case the median seconds over its runs, of the networks' stages and in total."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for run in runs:
        found.setdefault(run["case"], []).append(run["seconds"])
    return {
        case: {name: float(np.median([s[name] for s in seconds])) for name in ("networks", "total")}
        for case, seconds in found.items()
    }


def yardstick(device: torch.device, repeats: int = 5) -> float:
    """Return the median seconds of one fixed convolution: where it differs, the machine was not the same."""
    layer = torch.nn.Conv3d(32, 32, 3, padding=1, device=device).eval()
    x, found = torch.ones(1, 32, 40, 56, 40, device=device), []
    watch = Stopwatch(device)
    with torch.no_grad(), autocast(device, "bfloat16"):
        layer(x)
        for _ in range(repeats):
            watch.seconds.clear()
            with watch("yardstick"):
                layer(x)
            found.append(watch.seconds["yardstick"])
    return float(np.median(found))


def truth_of(case: Mapping[str, Any]) -> torch.Tensor:
    """Return a case's true label map, (X, Y[, Z]), on the grid of its file."""
    return torch.as_tensor(np.asarray(LoadScan(channels=None)(case["label"])))[0].round().long()


def measure(
    contender: str,
    task: Task,
    cases: Sequence[Mapping[str, Any]],
    repeats: int = 3,
    seconds: float = 30.0,
    steps: int | None = None,
) -> dict[str, Any]:
    """Measure a contender on labelled cases.

    A shortened chain says nothing about the answer, so there is a Dice only of whole chains and trained networks.

    Args:
        contender: its name in ``CONTENDERS``.
        task: what all share.
        cases: with paths under ``image`` and ``label``.
        repeats: rounds over all cases.
        seconds: after which no new round is begun.
        steps: timed steps of a long chain, over all cases together, in place of the contender's own number; 0 is all.

    Returns:
        ``seconds`` {stage: median and quartiles over all cases and rounds}, ``by_case`` {case: median seconds of
        ``total`` and ``networks``}, counts of one case (means), parameters, FLOPs, memory in MiB, ``dice`` or None.
    """
    torch.manual_seed(0)  # of untrained networks, and of MONAI's schedulers
    start_mib = status_mib("VmRSS") or peak_mib()
    entry = CONTENDERS[contender].build(task)
    whole = entry.chain
    count = len(whole.time_steps) if whole else 0
    wanted = CONTENDERS[contender].timed_steps
    timed = timed_steps(count, wanted if steps is None or wanted == 0 else steps, len(cases))
    parser, runs, rounds = task.parser(), [], 0
    dice: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(parser, folder)
        if whole:
            entry.inferer.chain = FirstSteps(whole, 1)
        begin = time.perf_counter()
        pipeline(entry, cases[0])
        warm_up = time.perf_counter() - begin
        if whole:
            entry.inferer.chain = whole if timed == count else FirstSteps(whole, timed)
        begin = time.perf_counter()
        while rounds < repeats and (rounds == 0 or time.perf_counter() - begin < seconds):
            rounds += 1
            for case in tqdm(cases, desc=f"{contender}, round {rounds}", leave=False, disable=None):
                ran, answer = pipeline(entry, case)
                ran["seconds"] = scaled(ran["seconds"], count / timed if timed else 1)
                ran["seconds"]["networks"] = sum(ran["seconds"][stage] for stage in NETWORK_STAGES)
                runs.append({"case": case_name(case["image"]), **ran})
                if rounds == 1 and entry.trained and timed == count:
                    classes = range(1, len(parser["labels"]))
                    dice.append(agreement(answer[None].long(), truth_of(case), classes))
    peak, device = peak_mib(), torch.device(task.device)
    gpu_peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    counted = {name: float(np.mean([run[name] for run in runs])) for name in COUNTS}
    counted["denoiser_evaluations"] *= count / timed if timed else 1
    own = flops(entry, parser)
    own["case"] = round(
        (counted["windows_run"] + counted["windows_skipped"]) * own["segment"]
        + counted["windows_run"] * own["encode"]
        + counted["denoiser_evaluations"] * own["call"]
    )
    return {
        "title": CONTENDERS[contender].title,
        "members": runs[0]["members"],
        "num_steps": count,
        "timed_steps": timed,
        "rounds": rounds,
        "runs": len(runs),
        "warm_up_seconds": warm_up,
        "seconds": {name: spread([run["seconds"][name] for run in runs]) for name in (*STAGES, "networks", "total")},
        "by_case": by_case(runs),
        **counted,
        "parameters": {"denoiser": parameters(entry.pair.denoiser), "all": parameters(entry.network)},
        "flops": own,
        "start_mib": start_mib,
        "peak_mib": peak,
        "gpu_peak_mib": gpu_peak,
        "dice": float(np.mean(dice)) if dice else None,
        "yardstick_seconds": yardstick(device),
    }
