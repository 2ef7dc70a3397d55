"""How many calls does each start need? Starts T' from 300 to 1000, 1 to 20 calls, three training processes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks import common
from benchmarks.trust import phantom, training
from benchmarks.trust.contenders import contender
from benchmarks.trust.measures import measure_all, validation_cases
from benchmarks.trust.report import described, earlier, values_of

MEASURED = {
    "hippocampus": {
        "calibrated_nll": "NLL, calibrated",
        "disagreement": "disagreement ratio",
        "volume_z": "volume error / members' SD",
    },
    "phantom": {"ged": "GED", "volume_sd_body": "volume SD, body", "volume_sd_core": "volume SD, core"},
}


def jobs_of(study: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the jobs `<task> <network> <T'>`, each with the networks that it needs."""
    jobs = {}
    for task in MEASURED:
        for network, (low, high) in study["sweep"][task].items():
            starts = [start for start in study["sweep"]["starts"] if low <= start < high] + [high]
            for start in starts:
                jobs[f"{task} {network} {start}"] = [f"{network}_0"] + ["segmenter_0"] * (task == "hippocampus")
    return jobs


def result_file(job: str, args: argparse.Namespace) -> Path:
    """Return the file of a job's measurements."""
    return args.work / "sweep" / f"{job.replace(' ', '_')}.json"


def measure(study: Mapping[str, Any], job: str, args: argparse.Namespace) -> None:
    """Measure one start with all numbers of calls, unless it was measured."""
    path, (task, network, start) = result_file(job, args), job.split()
    if path.is_file():
        return
    settings = {
        calls: {"start_step": int(start), "num_steps": calls, "presegmentation_weight": 0.0}
        for calls in study["sweep"]["calls"]
    }
    found: dict[int, dict[str, Any]] = {}
    if task == "hippocampus":
        parser = common.read_bundle(common.HIPPOCAMPUS, device=args.device)
        cases = validation_cases(args.dataset_dir)[:: study["sweep"]["every"]]
        items = common.load_items(parser, cases)
        for calls, changes in settings.items():
            row = {"networks": ["segmenter_0", f"{network}_0"], "settings": changes}
            measured = measure_all(contender(row, study, args), items, f"{job}, {calls} calls")
            found[calls] = {metric: described(values_of(measured, metric)) for metric in MEASURED[task]}
    else:
        changes = training.at_inference(study["networks"][network]) | {"device": args.device}
        rows = phantom.measure(
            [changes | s for s in settings.values()],
            study["sweep"]["scans"],
            study["sweep"]["members"],
            denoiser_file=training.weights_file(f"{network}_0", args.work),
        )
        named = {line["name"]: line for line in phantom.summary(rows)}
        for calls, s in settings.items():
            line = named[json.dumps(changes | s)]
            found[calls] = {metric: line[metric] for metric in MEASURED[task]}
    common.write_json(path, {"job": job, "machine": common.machine(args.device), **common.stamp(), "calls": found})


def write(study: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Write numbers and figure of all measured jobs; other jobs of the written file stay."""
    table, jobs = args.output_dir / "results_sweep.json", jobs_of(study)
    files = [result_file(job, args) for job in jobs]
    rows = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    named = {row["job"]: row for row in [*earlier(table, "jobs", args.scale), *rows]}
    found = [named[job] for job in jobs if job in named]
    if not found:
        return
    common.write_json(table, {"scale": args.scale, **study["sweep"], "jobs": found})
    draw(found, args.output_dir / "results_sweep.png")


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw each measure against the calls; one line for each training process and start."""
    styles, colors = {"denoiser": "-", "no_channel": ":", "residual": "--"}, matplotlib.colormaps["viridis"]
    with common.figure(path, 2, 3, figsize=(14, 9)) as (_, axes):
        for row, (task, metrics) in zip(axes, MEASURED.items(), strict=True):
            jobs = [job for job in found if job["job"].startswith(f"{task} ")]
            for axis, (metric, title) in zip(row, metrics.items(), strict=True):
                for job in jobs:
                    _, network, start = job["job"].split()
                    kind, calls = network.removeprefix("phantom_"), list(map(int, job["calls"]))
                    values = np.array([row[metric]["mean"] for row in job["calls"].values()], dtype=float)
                    color = colors((int(start) - 300) / 700)
                    label = f"{kind}, T'={start}"
                    axis.plot(calls, values, styles[kind], color=color, marker="o", markersize=3, label=label)
                axis.set(xscale="log", title=f"{task}: {title}", xlabel="calls of the denoiser")
                axis.set_xticks(list(map(int, found[0]["calls"])), found[0]["calls"], minor=False)
                axis.minorticks_off()
                axis.grid(alpha=0.3)
            row[-1].legend(fontsize=6)
