"""What does a segmentation with uncertainty cost, by our way and by everyone else's?

``python benchmarks/speed/speed.py --dataset_dir <data>`` asks every contender about the same cases, each in a process
of its own, and prints one table. What was measured with the same settings is not measured again. ``--profile``,
``--layout``, ``--threads``, ``--member_batch``, ``--switches`` and ``--growth`` look at ours alone, each with a table
of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed import closeups, growth, report
from benchmarks.speed.contenders import CONTENDERS, Task
from benchmarks.speed.jobs import kept, machine, machine_line, measured, when
from benchmarks.speed.measure import measure
from benchmarks.speed.options import parsed, shared_options
from benchmarks.trust import measuring
from benchmarks.volume.volume import table
from monai_pdddpm.bundle import keep_freed_memory
from monai_pdddpm.data import labelled_cases, write_phantom
from monai_pdddpm.utils.errors import UserError, friendly_errors

STAGES_OF_OURS = ("segment", "encode", "chain", "networks", "total")
SWITCHES: dict[str, dict[str, Any]] = {  # each alone, the others as shipped
    "as shipped": {},
    "freed memory goes back to the system": {"keep_memory": False},
    "float32": {"overrides": {"precision": "float32"}},
    "one member at a time": {"overrides": {"inferer::member_batch": 1}},
    "every window": {"overrides": {"windows": "all"}},
    "fusion by steps": {"overrides": {"fusion": "step"}},
    "compiled": {"overrides": {"compile": True}},
    "two solver steps in each block": {"overrides": {"solver_steps": 2}},
    "noise in each step (eta 1)": {"overrides": {"rule::eta": 1.0}},
    "all the way to index 0": {"overrides": {"end_fraction": 0.0}},
    **{f"steps {n}": {"overrides": {"num_steps": n}} for n in (1, 2, 3, 5, 10)},
}


def cases_of(dataset_dir: Path | None, number: int, work: Path) -> list[dict[str, Any]]:
    """Return the first validation cases; without data those of a phantom that is made in ``work``."""
    if dataset_dir is None:
        dataset_dir = work / f"phantom_{number}"
        if not dataset_dir.exists():
            write_phantom(dataset_dir, train=1, validation=number, test=0, series=0, annotations=1, progress=False)
    return labelled_cases(dataset_dir, "validation")[:number]


def parse_weights(given: Sequence[str]) -> dict[str, Path]:
    """Return ``contender=path`` pairs as a dictionary.

    Raises:
        UserError: when a contender is unknown or a file is missing.
    """
    found = {}
    for text in given:
        name, _, path = text.partition("=")
        if name not in CONTENDERS or not Path(path).is_file():
            raise UserError(
                f"weights: found '{text}', expected contender=file with a contender of {', '.join(CONTENDERS)} and a "
                "file that exists; fix --weights"
            )
        found[name] = Path(path).resolve()
    return found


def job_of(contender: str, cases: Sequence[Mapping[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of :func:`run_job` for a contender."""
    weights = args.weights.get(contender)
    return {
        "contender": contender,
        "bundle": str(args.bundle),
        "device": args.device,
        "members": args.members,
        "weights": None if weights is None else str(weights),
        "overrides": args.overrides,
        "cases": [dict(case) for case in cases],
        "repeats": args.repeats,
        "seconds": args.seconds,
        "num_steps": args.timed_steps,
    }


def run_job(
    contender: str,
    bundle: str,
    device: str,
    members: int | None,
    weights: str | None,
    overrides: Mapping[str, Any],
    keep_memory: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Measure a contender in this process."""
    if keep_memory:  # as the bundles do
        keep_freed_memory()
    task = Task(Path(bundle), device, members, None if weights is None else Path(weights), overrides)
    return measure(contender, task, **settings)


def contenders(cases: Sequence[Mapping[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Measure the contenders that are asked for, and write the table of all that are there."""
    only = set(args.only or CONTENDERS)
    rows = {}
    for name in tqdm([n for n in CONTENDERS if n in only], desc="contenders", disable=None):
        measured(name, job_of(name, cases, args), args)
    for name in CONTENDERS:  # with those of an earlier command, if its settings were the same
        if row := kept(name, job_of(name, cases, args), args):
            rows[name] = row
    for row in rows.values():
        row["times_ours"] = report.ratios(row, rows.get(report.OURS))
    text = report.contenders_table(rows) + "\n\n" + note(cases, args, rows)
    text += " " + report.steadiness(rows)
    part = f"contenders_{torch.device(args.device).type}"
    content = {"bundle": args.bundle.name, "machine": machine(args.device)}
    report.write(part, content | {"cases": len(cases), "rows": rows}, text, args.output_dir)
    report.draw(rows, args.output_dir / f"results_{part}.png")
    return rows


def note(cases: Sequence[Any], args: argparse.Namespace, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the sentences below a table: what was measured on what."""
    scaled = [
        f"{row['title']}: {row['timed_steps']} of {row['steps']} steps"
        for row in rows.values()
        if row["timed_steps"] != row["num_steps"]
    ]
    text = (
        f"{args.bundle.name}, {len(cases)} cases; {machine_line(args)} {when([*rows.values()])} "
        "Networks in bfloat16. Seconds a case: medians over cases and rounds, in brackets the quartiles; warm-up apart."
    )
    if scaled:
        text += f" Scaled: the chain was timed over its first steps in each case ({'; '.join(scaled)})."
    return text


def variations(
    name: str, changes: Mapping[Any, Mapping[str, Any]], cases: Sequence[Mapping[str, Any]], args: argparse.Namespace
) -> dict[Any, dict[str, Any]]:
    """Measure ours under several names, each with changes of its job (or ``threads``), and write the table."""
    rows: dict[Any, dict[str, Any]] = {}
    for label, change in changes.items():
        job = job_of(report.OURS, cases, args)
        job["overrides"] = {**job["overrides"], **change.get("overrides", {})}
        job["keep_memory"] = change.get("keep_memory", True)
        file = f"{report.OURS}_{name}_{label}".replace(" ", "_")
        rows[label] = measured(file, job, args, change.get("threads", 0))
    first = next(iter(rows.values()))
    head = [name.replace("_", " "), *(f"{stage} s" for stage in STAGES_OF_OURS), "times the first", "peak MiB", "Dice"]
    lines = [
        [
            label,
            *(report.with_spread(row["seconds"][stage]) for stage in STAGES_OF_OURS),
            report.number(report.ratios(row, first)["networks"] or 0),
            report.memory(row),
            "" if row["dice"] is None else f"{row['dice']:.4f}",
        ]
        for label, row in rows.items()
    ]
    text = table(head, lines) + "\n\n" + note(cases, args, {str(v): row for v, row in rows.items()})
    text += " Times the first: of the networks' stages. " + report.steadiness({str(v): r for v, r in rows.items()})
    part = f"{name}_{torch.device(args.device).type}"
    report.write(part, {"bundle": args.bundle.name, "rows": list(rows.values())}, text, args.output_dir)
    return rows


def chosen_switches(names: Sequence[str]) -> list[str]:
    """Return the named switches, all when none is named, with the bundle as it is shipped as the first."""
    return [name for name in SWITCHES if not names or name in names or not SWITCHES[name]]


def profile(task: Task, args: argparse.Namespace) -> dict[str, Any]:
    """Profile our chain and write the table of its operations."""
    found = closeups.profile_chain(task, args.repeats)
    rows = []
    for what, shares in found["convolutions"].items():
        low, middle, high = (f"{100 * share:.0f}" for share in (min(shares), statistics.median(shares), max(shares)))
        rows.append([what, f"{middle} [{low}, {high}]"])
    text = (
        f"The chain of {args.bundle.name} in one window, {found['members']} members, {found['steps']} steps: "
        f"{found['seconds']:.3g} s without the profiler. What convolutions take of the operations' own time: median of "
        f"{args.repeats} profiles, least and most.\n\n{table(['what', '%'], rows)}\n\n"
        f"```\n{found['table'].strip()}\n```\n\n{machine_line(args)}"
    )
    report.write(f"profile_{torch.device(args.device).type}", found, text, args.output_dir)
    return found


def layout(task: Task, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time both memory layouts and write the table."""
    lines = closeups.layouts(task, args.repeats)
    head = ["network", "contiguous s", "channels_last_3d s", "ratio"]
    rows = [
        [f"{CONTENDERS[line['contender']].title}: {line['network']}"]
        + [report.with_spread(line["seconds"][name]) for name in closeups.LAYOUTS]
        + [f"{line['ratio']:.2f}"]
        for line in lines
    ]
    text = table(head, rows) + f"\n\n{args.bundle.name}, one window, {args.repeats} runs in turns. {machine_line(args)}"
    report.write(f"layout_{torch.device(args.device).type}", {"rows": lines}, text, args.output_dir)
    return lines


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked.

    Raises:
        UserError: when one does not fit.
    """
    options = shared_options(__doc__)
    options.add_argument("--cases", type=int, default=5, help="take the first n of the validation cases")
    options.add_argument("--only", nargs="+", choices=CONTENDERS, help="contenders, all by default")
    options.add_argument("--members", type=int, help="of every ensemble, the bundle's own number by default")
    options.add_argument("--repeats", type=int, default=3, help="rounds over the cases")
    options.add_argument("--seconds", type=float, default=30, help="for the rounds of a contender, the runs of a point")
    options.add_argument("--timed_steps", type=int, help="of long chains, over all cases; 0 runs them whole")
    options.add_argument("--weights", nargs="+", default=[], help="contender=file, so that it gets a Dice")
    options.add_argument("--profile", action="store_true", help="of our chain, instead of the contenders")
    options.add_argument("--layout", action="store_true", help="memory layouts, instead of the contenders")
    options.add_argument("--threads", type=int, nargs="+", help="ours with so many, instead of the contenders")
    options.add_argument("--member_batch", type=int, nargs="+", help="members at once, instead of the contenders")
    options.add_argument(
        "--switches", nargs="*", choices=SWITCHES, help="ours with each switch alone, all or those named"
    )
    options.add_argument(
        "--growth", nargs="*", choices=growth.CURVES, help="of ours, over members and so on: all or those named"
    )
    args = parsed(options, argv)
    for name in ("cases", "repeats", "members"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"{name}: found {getattr(args, name)}, expected 1 or more; fix --{name}")
    for name in ("threads", "member_batch"):
        if min(getattr(args, name) or [1]) < 1:
            raise UserError(f"{name}: found {getattr(args, name)}, expected numbers of 1 or more; fix --{name}")
    args.weights = parse_weights(args.weights)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for."""
    friendly_errors()
    args = parse(argv)
    if args.job:
        run = growth.run_point if "curve" in args.job else run_job
        measuring.write_json(args.job_file, run(**args.job))
        return
    task = Task(args.bundle, args.device, args.members, overrides=args.overrides)
    if args.profile:
        profile(task, args)
    if args.layout:
        layout(task, args)
    if args.growth is not None:
        growth.grow(args.growth or list(growth.CURVES), args)
    closer = {
        "threads": {n: {"threads": n} for n in args.threads or ()},
        "member_batch": {n: {"overrides": {"inferer::member_batch": n}} for n in args.member_batch or ()},
        "switches": {} if args.switches is None else {n: SWITCHES[n] for n in chosen_switches(args.switches)},
    }
    if (args.profile or args.layout or args.growth is not None) and not any(closer.values()):
        return
    cases = cases_of(args.dataset_dir, args.cases, args.work)
    for name, changes in closer.items():
        if changes:
            variations(name, changes, cases, args)
    if not any(closer.values()):
        contenders(cases, args)


if __name__ == "__main__":
    main()
