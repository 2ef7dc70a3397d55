"""Are the members samples of what annotators draw? Members beside annotations of phantoms with a known distribution.

    python benchmarks/trust/phantom.py                                             # the shipped bundle
    python benchmarks/trust/phantom.py --settings '{}' '{"num_steps": 5}' '{"start_step": 900, "num_steps": 3}'

Fresh scans are drawn, each with as many annotations as members. Rows: the settings, as many other annotations (the best
possible), independent voxels with the true probabilities and with those of the ensemble's mean, and the segmenter's
answer. Columns:

- GED: unbiased generalized energy distance to as many annotations, distance 1 - IoU averaged over the foreground
  classes. It responds to wrong probabilities and hardly to wrong correlations: independent voxels with the true
  probabilities have 0;
- volume SD: standard deviation of the members' volumes divided by that of many annotations, by class;
- volume CRPS: mean fair score of the members' volumes for each annotation, mL, mean over the classes;
- calibration error of each voxel's frequency against the true probability, near the borders;
- correlation of foreground voxels at distances along an axis, over members, where the truth is undecided;
- segmenter passes a member: seconds of all networks by those of the segmenter in the same scan, by the members.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import common
from benchmarks.trust.samples import crps, generalized_energy_distance
from monai_pdddpm.data.phantom_distribution import Phantom, make_phantom_scan
from monai_pdddpm.metrics.summary import statistic
from monai_pdddpm.networks.weights import load_weights, read_weights
from monai_pdddpm.utils.errors import UserError, friendly_errors

FIRST_SEED = 9100  # far from the seeds of the bundle's own scans, and of those that chose its settings (9000 to 9015)
DISTANCES = (1, 2, 4, 8)
ANNOTATIONS = 128  # of a scan, for the spread of the volumes
COMPARED = ("ged", "volume_sd_body", "volume_sd_core")
CLASSES = ("background", "body", "core")
LIMIT, INDEPENDENT = "other annotations", "independent voxels, true probabilities"
OF_THE_MEAN, SEGMENTER = "independent voxels, the ensemble's mean", "the segmenter's answer"

Array = NDArray[Any]


def near_border(phantom: Phantom) -> Array:
    """Return the voxels that are undecided or no background, (X, Y, Z) bool."""
    return (phantom.probability.max(0) < 0.98) | (phantom.probability[0] < 0.5)


def calibration_error(predicted: Array, known: Array, bins: int = 15) -> float:
    """Return the mean gap of predicted and known probabilities in bins of the prediction, weighted by voxels."""
    predicted, known = predicted.ravel(), known.ravel()
    index = np.minimum((predicted * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(index, weights=predicted - known, minlength=bins)).sum() / len(predicted))


def neighbor_correlation(foreground: Array, region: Array, distance: int) -> float:
    """Return the correlation over samples, (N, X, Y, Z), of voxels at a distance along an axis, averaged over pairs."""
    centered = foreground.astype(np.float32) - foreground.mean(0)
    covariance = variance = 0.0
    for axis in range(3):
        a, b = (
            tuple(slice(*s) if i == axis else slice(None) for i in range(3))
            for s in ((None, -distance), (distance, None))
        )
        pairs = region[a] & region[b]
        left, right = centered[(slice(None), *a)][:, pairs], centered[(slice(None), *b)][:, pairs]
        covariance += float((left * right).sum())
        variance += float((left**2 + right**2).sum()) / 2
    return covariance / variance if variance else float("nan")


def compare(members: Array, annotations: Array, phantom: Phantom) -> dict[str, float]:
    """Compare label maps (N, X, Y, Z) of members with those of as many annotations or more."""
    classes, voxel_ml = range(1, len(CLASSES)), float(np.prod(phantom.spacing)) / 1000
    region, undecided = near_border(phantom), (phantom.probability[0] > 0.1) & (phantom.probability[0] < 0.9)
    frequency = np.stack([(members == k).mean(0) for k in classes])
    found = {
        "ged": generalized_energy_distance(
            torch.as_tensor(members), torch.as_tensor(annotations[: len(members)]), len(CLASSES)
        ),
        "frequency_ece": calibration_error(frequency[:, region], phantom.probability[1:, region]),
    }
    scores = []
    for k in classes:
        ours, theirs = ((maps == k).sum((1, 2, 3)) * voxel_ml for maps in (members, annotations))
        found[f"volume_sd_{CLASSES[k]}"] = float(ours.std(ddof=1) / theirs.std(ddof=1))
        scores += [crps(ours, truth) for truth in theirs]
    found["volume_crps_ml"] = float(np.mean(scores))
    for d in DISTANCES:
        found[f"correlation_{d}"] = neighbor_correlation(members > 0, undecided, d)
    return found


def independent_voxels(probability: Array, count: int, rng: np.random.Generator) -> Array:
    """Draw label maps (N, X, Y, Z) whose voxels are independent, with the given probabilities (K, X, Y, Z)."""
    uniform = rng.random((count, *probability.shape[1:]))
    return (uniform[:, None] > probability.cumsum(0)[None, :-1]).sum(1).astype(np.uint8)


def measure(
    settings: Sequence[Mapping[str, Any]],
    scans: int,
    members: int,
    model_file: Path | None = None,
    bundle: Path = common.PHANTOM,
    denoiser_file: Path | None = None,
) -> dict[str, list[dict[str, float]]]:
    """Compare all rows with the annotations of fresh scans; return by row what `compare` found for each scan.

    `settings` are overrides of `inference.json`, one row each. `model_file` replaces the weights of the bundle,
    `denoiser_file` those of its denoiser alone.
    """
    phantoms = [make_phantom_scan(seed=seed) for seed in range(FIRST_SEED, FIRST_SEED + scans)]
    rows: dict[str, list[dict[str, float]]] = {}
    annotations = []
    for number, phantom in enumerate(phantoms):
        rng = np.random.default_rng(number)
        many = max(ANNOTATIONS, members)
        maps, others = (np.stack([phantom.draw_annotation(rng) for _ in range(many)]) for _ in range(2))
        annotations.append(maps)
        rows.setdefault(LIMIT, []).append(compare(others[:members], maps, phantom))
        rows.setdefault(INDEPENDENT, []).append(
            compare(independent_voxels(phantom.probability, members, rng), maps, phantom)
        )
    for number, changes in enumerate(settings):
        parser = common.read_bundle(bundle, {**changes, "members": members, "inferer::return_members": True})
        inferer = common.make_inferer(parser)
        if denoiser_file is None:
            network = common.load_pair(parser, model_file)
        else:
            network = parser.get_parsed_content("network_def").to(parser["device"]).eval()
            network.segmenter = common.load_pair(common.read_bundle(bundle, device=parser["device"])).segmenter
            load_weights(network.denoiser, read_weights(denoiser_file), denoiser_file)
        name = json.dumps(changes) if changes else "as shipped"
        for phantom, theirs in tqdm(list(zip(phantoms, annotations, strict=True)), desc=name, disable=None):
            image = torch.as_tensor((phantom.image - phantom.image.mean()) / phantom.image.std())[None, None]
            parts, run = common.run_inferer(inferer, network, image.to(parser["device"]))
            seconds = sum(run.seconds.values())
            drawn = parts["members"].argmax(1).cpu().numpy()
            found = compare(drawn, theirs, phantom)
            found["passes"] = seconds / run.seconds["segment"] / members
            region = near_border(phantom)
            found["mean_ece"] = calibration_error(
                parts["pred"].cpu().numpy()[1:, region], phantom.probability[1:, region]
            )
            rows.setdefault(name, []).append(found)
            if not number:
                voxels = independent_voxels(parts["pred"].cpu().numpy(), members, np.random.default_rng(0))
                rows.setdefault(OF_THE_MEAN, []).append(compare(voxels, theirs, phantom))
                answer = parts["preseg"].argmax(0).cpu().numpy()
                rows.setdefault(SEGMENTER, []).append(compare(np.stack([answer] * members), theirs, phantom))
    return rows


def summary(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Return mean and 95 % bootstrap interval over the scans, row by row."""
    return [
        {"name": name, **{metric: statistic([scan[metric] for scan in found]) for metric in found[0]}}
        for name, found in rows.items()
    ]


def as_markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Format the table."""
    columns = {
        "ged": "GED",
        "volume_sd_body": "volume SD, body",
        "volume_sd_core": "volume SD, core",
        "volume_crps_ml": "volume CRPS, mL",
        "frequency_ece": "calibration error",
        **{f"correlation_{d}": f"correlation at {d}" for d in DISTANCES},
        "passes": "segmenter passes a member",
    }
    rows = []
    for line in lines:
        cells = [line["name"]]
        for metric in columns:
            found = line.get(metric, {"mean": None})
            cell = "-" if found["mean"] is None else f"{found['mean']:.3f}"
            cells.append(cell + (f" [{found['low']:.3f}, {found['high']:.3f}]" if metric in COMPARED else ""))
        rows.append(cells)
    return common.table(["members", *columns.values()], rows)


def draw(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw GED, volume SD and correlation of all rows."""
    names, places = [line["name"] for line in lines][::-1], np.arange(len(lines))
    with common.figure(path, 1, 4, figsize=(19, 2.4 + 0.35 * len(lines))) as (figure, axes):
        found = [line["ged"] for line in lines][::-1]
        mean, low, high = (np.array([f[key] for f in found]) for key in ("mean", "low", "high"))
        axes[0].errorbar(mean, places, xerr=[mean - low, high - mean], fmt="o")
        axes[0].set_yticks(places, names, fontsize=8)
        axes[0].set_title("GED to the annotations")
        for offset, name in ((-0.1, "body"), (0.1, "core")):
            values = [line[f"volume_sd_{name}"]["mean"] for line in lines][::-1]
            axes[1].plot(values, places + offset, "o", label=name)
        axes[1].axvline(1, color="black", linewidth=0.8)
        axes[1].set_yticks(places, [])
        axes[1].set_title("volume SD, members / annotations")
        axes[1].legend(fontsize=8)
        for line in lines:
            values = [line[f"correlation_{d}"]["mean"] for d in DISTANCES]
            axes[2].plot(
                DISTANCES, [np.nan if v is None else v for v in values], "o-", label=line["name"], markersize=4
            )
            if "passes" in line:
                axes[3].plot(line["passes"]["mean"], line["ged"]["mean"], "o", color=axes[2].lines[-1].get_color())
        axes[2].set_title("correlation at distance, voxels")
        axes[3].set_title("GED against segmenter passes a member")
        figure.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        for axis in axes:
            axis.grid(alpha=0.3)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write table, numbers and figure."""
    friendly_errors(force=True)
    options = common.script_options(__file__, __doc__)
    options.add_argument("--scans", type=int, default=8)
    options.add_argument("--members", type=int, default=16, help="members, and annotations, of a scan")
    options.add_argument(
        "--settings", nargs="+", type=json.loads, default=[{}], help="overrides of inference.json, JSON"
    )
    options.add_argument("--bundle", type=Path, default=common.PHANTOM)
    options.add_argument("--model_file", type=Path, help="weights, by default the bundle's")
    args = options.parse_args(argv)
    if min(args.scans, args.members - 1) < 1:
        raise UserError(f"scans, members: found {args.scans} and {args.members}, expected 1 and 2 or more; fix them")
    lines = summary(measure(args.settings, args.scans, args.members, args.model_file, args.bundle))
    text = as_markdown(lines) + (
        f"\n\n{args.members} members against {args.members} annotations, {args.scans} fresh scans; in brackets the "
        "95 % bootstrap interval over the scans."
    )
    content = {
        "scans": args.scans,
        "members": args.members,
        "machine": common.machine(),
        **common.stamp(),
        "rows": lines,
    }
    common.write_results(args.output_dir, "results_phantom", content, text)
    draw(lines, args.output_dir / "results_phantom.png")


if __name__ == "__main__":
    main()
