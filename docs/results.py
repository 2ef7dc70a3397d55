"""Write the results of README, model cards and metadata from the committed tables of benchmarks/trust.

    python docs/results.py

`results_hippocampus.json` and `results_phantom_evaluation.json` are the summaries of `evaluate.json`,
`results_members.json`, `results_phantom.json` and `results_study.json` those of the scripts of the same names.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = "bundles/hippocampus_mri_segmentation/configs"
COMMAND = (
    ".venv/bin/python -m monai.bundle run evaluating --config_file "
    f"\"['{CONFIGS}/inference.json','{CONFIGS}/evaluate.json']\" --dataset_dir <data>"
)
TRUST = ROOT / "benchmarks" / "trust"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
ROWS = {
    ("mean", "dice"): "Dice, mean of both labels",
    ("mean", "hd95_mm"): "HD95 (mm)",
    ("near structure, calibrated", "nll"): "NLL, calibrated",
    ("near structure, calibrated", "ece"): "ECE, calibrated",
}

METADATA = {
    **{f"mean_{metric}": ("mean", metric) for metric in ("dice", "hd95_mm", "nsd_1mm")},
    **{
        f"{metric}_near_structure_calibrated": ("near structure, calibrated", metric)
        for metric in ("ece", "brier", "nll", "error_auroc")
    },
}

STUDIED = (
    "segmenter",
    "segmenter, trained as long as both networks",
    "segmenter with cross-entropy alone",
    "deep ensemble of 5",
    "stochastic segmentation network, rank 10",
    "PD-DDPM, the bundle's chain (3 calls)",
    "no pre-segmentation, 10 calls from noise",
)
SHIPPED, SEGMENTER = "as shipped", "the segmenter's answer"
RECIPE = """
    One recipe, the same cases and measures ([`study.py`](benchmarks/trust/results_study.md)); in brackets the interval
    of the difference from the segmenter. PD-DDPM's noise was tuned on eight of the cases; 3000 of its batches train
    segmenters of other folds. Its Dice does not differ from that of the segmenter trained longer, its NLL is the
    lowest; cross-entropy alone has the lowest ECE. Without pre-segmentation the members fit the annotations as well;
    the answer is worse.
"""


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_on_hyphens=False)


def read(name: str) -> dict[str, Any]:
    """Return a committed table."""
    return json.loads((TRUST / f"results_{name}.json").read_text(encoding="utf-8"))


def interval(found: Mapping[str, float], sign: str = "", digits: int = 4) -> str:
    """Return mean and interval of a statistic."""
    mean, low, high = (f"{found[key]:{sign}.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def comparison(summary: Mapping[str, Any], rows: Mapping[tuple[str, str], str]) -> str:
    """Return the table of segmenter and ensemble."""
    lines = ["| metric | segmenter | ensemble | ensemble - segmenter |", "|---|---|---|---|"]
    for (label, metric), name in rows.items():
        ours, theirs = (summary["methods"][method][label][metric] for method in ("ensemble", "segmenter"))
        difference = interval(summary["paired_difference"][label][metric], "+")
        lines.append(f"| {name} | {interval(theirs)} | {interval(ours)} | {difference} |")
    return "\n".join(lines)


def study_table(study: Mapping[str, Any]) -> str:
    """Return the main rows of the table at equal training."""
    head = ["method", "batches of training", "s a case (2 cores)", "Dice", "NLL, calibrated", "ECE, calibrated"]
    head += ["members differ", "volume error / SD"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in study["rows"]:
        if row["name"] not in STUDIED:
            continue
        cells = [row["name"], str(row["batches_of_training"]), f"{row['seconds_per_case']:.2f}"]
        for metric in ("dice", "calibrated_nll", "calibrated_ece"):
            difference = row[f"{metric}_difference"]
            bare = row["name"] == "segmenter" or difference["low"] is None  # None: not measured in pairs
            between = "" if bare else f" [{difference['low']:+.4f}, {difference['high']:+.4f}]"
            cells.append(f"{row[metric]['mean']:.4f}{between}")
        for metric, form in (("disagreement", ".2f"), ("volume_z", ".1f")):
            mean = row[metric]["mean"]
            cells.append("-" if mean is None else format(mean, form))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def card_table(summary: Mapping[str, Any]) -> str:
    """Return the whole table of `evaluate.json`."""
    rows = {
        (label, metric): f"{label}: {metric}"
        for label, metrics in summary["paired_difference"].items()
        for metric in metrics
    }
    return comparison(summary, rows)


def readme() -> str:
    """Return the results of the README."""
    summary, members, phantom, study = read("hippocampus"), read("members"), read("phantom"), read("study")
    shipped = members["rows"][SHIPPED]
    rows = {row["name"]: row for row in phantom["rows"]}
    energy = {name: f"{abs(rows[name]['ged']['mean']):.3f}" for name in (SHIPPED, "other annotations", SEGMENTER)}
    spread = {name: f"{rows[SHIPPED][f'volume_sd_{name}']['mean']:.2f}" for name in ("body", "core")}
    samples = f"""
        Probabilities improve; Dice hardly does. Some settings were chosen on these cases. Members as samples
        (`benchmarks/trust/members.py`, `phantom.py`): two members differ
        {interval(shipped["disagreement"], digits=2)} times as much as a member differs from the annotation (1 for
        samples); the volume error is {interval(shipped["volume_z"], digits=2)} standard deviations of the members. On
        phantoms, whose distribution of annotations is known, the generalized energy distance is {energy[SHIPPED]}
        (other annotations {energy["other annotations"]}, the segmenter {energy[SEGMENTER]}), and the volumes' SDs are
        {spread["body"]} (body) and {spread["core"]} (core) of the annotations'.
    """
    first = f"""
        `hippocampus_mri_segmentation` on its {summary["cases"]} validation cases ({summary["subjects"]} subjects):
        mean, 95 % bootstrap interval over subjects, paired difference. NLL and ECE: near the structure (the truth
        dilated by 3 voxels), with a temperature fitted on all other subjects.
    """
    return f"""
{_paragraph(first)}

```sh
{COMMAND}
```

{comparison(summary, ROWS)}

{_paragraph(samples)}

{_paragraph(RECIPE)}

{study_table(study)}
"""


def replaced(text: str, results: str) -> str:
    """Return a document with new results between its markers."""
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{results}\n{END}", text, flags=re.DOTALL)


def with_metrics(text: str, summary: Mapping[str, Any]) -> str:
    """Return a task's JSON with the means of a summary under `eval_metrics`, which `bundle.render` copies."""

    def block(found: re.Match[str]) -> str:
        means = summary["methods"][found[1]]
        values = {key: round(means[label][metric]["mean"], 4) for key, (label, metric) in METADATA.items()}
        return f'"{found[1]}": ' + json.dumps(values, indent=4).replace("\n", "\n        ")

    return re.sub(r'"(segmenter|ensemble)": \{\s*"mean_dice"[^}]*\}', block, text)


def documents() -> dict[Path, str]:
    """Return each file that shows results, with the results of the committed tables."""
    cards = {"hippocampus_mri": "hippocampus", "phantom": "phantom_evaluation"}
    found = {ROOT / "README.md": readme()}
    for bundle, table in cards.items():
        found[ROOT / "bundles" / f"{bundle}_segmentation" / "docs" / "README.md"] = (
            "\n" + card_table(read(table)) + "\n"
        )
    files = {path: replaced(path.read_text(encoding="utf-8"), results) for path, results in found.items()}
    for bundle, table in cards.items():
        task = ROOT / "configs" / "tasks" / f"{bundle}_segmentation.json"
        files[task] = with_metrics(task.read_text(encoding="utf-8"), read(table))
    return files


def main() -> None:
    """Write the documents."""
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
