"""Draw the pictures of `docs/how-to/use-the-uncertainty.md` and print its numbers.

`python docs/figures/uncertainty.py` takes a few minutes on one core and needs no data. The phantom's bundle segments a
generated scan whose true class probabilities are known, once as generated and once after blur and noise.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from monai_pdddpm.data.phantom_distribution import Phantom, make_phantom_scan
from monai_pdddpm.metrics.calibration import near_structure
from monai_pdddpm.visualize.colors import PALETTE

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
CONFIG = ROOT / "bundles" / "phantom_segmentation" / "configs" / "inference.json"
NAMES = ("body", "core")
SEED = 9000  # the bundle's own scans have other seeds
BLUR, NOISE = 2.0, 100.0  # voxels; intensities, where the generator's own noise has 15
MANY_MEMBERS, BINS = 48, 15
SURE = 0.2  # nats: 95 % for one class and 5 % for another
DASHED: dict[str, Any] = {"colors": ["white"], "linestyles": ["--"], "linewidths": 1.1}

Array = NDArray[Any]


def degraded(image: Array, blur: float, noise: float, rng: np.random.Generator) -> Array:
    """Return a scan after a Gaussian blur (sigma in voxels) and white noise (sd in intensities)."""
    return gaussian_filter(image, blur) + noise * rng.standard_normal(image.shape).astype(np.float32)


def reliability(predicted: Array, known: Array, bins: int = BINS) -> tuple[Array, Array, Array]:
    """Sort voxels by their predicted probability into bins of equal width.

    Return mean prediction, mean known probability and part of the voxels for each bin that is not empty. A bin contains
    its lower edge, the last one also 1.
    """
    predicted, known = predicted.ravel().astype(float), known.ravel().astype(float)
    index = np.minimum((predicted * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=values, minlength=bins)[count > 0] for values in (predicted, known)]
    count = count[count > 0]
    return sums[0] / count, sums[1] / count, count / count.sum()


def fraction(of: Array, among: Array) -> float:
    """Return the fraction of the voxels ``among`` that are also ``of``, both bool."""
    return float(of[among].mean()) if among.any() else math.nan


def dice(a: Array, b: Array) -> float:
    """Return the Dice coefficient of two masks, 1 if both are empty."""
    size = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / size if size else 1.0


def infer(scans: Mapping[str, Array], folder: Path, **settings: object) -> dict[str, dict[str, Any]]:
    """Run the bundle on scans of 1 mm voxels and return each case's maps, (X, Y, Z[, C]), and report."""
    data, output = folder / "scans", folder / "output"
    data.mkdir(parents=True)
    for case, image in scans.items():
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), data / f"{case}.nii.gz")
    options = {"config_file": CONFIG, "dataset_dir": data, "output_dir": output, **settings}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", "inference", *words], cwd=ROOT, check=True)
    found: dict[str, dict[str, Any]] = {}
    for case in scans:
        found[case] = {"report": json.loads((output / case / f"{case}_report.json").read_text(encoding="utf-8"))}
        for name in ("seg", "prob", "members", "entropy", "mutual-information"):
            found[case][name] = nib.load(output / case / f"{case}_{name}.nii.gz").get_fdata(dtype=np.float32)
    return found


def table(maps: Mapping[str, Any], annotation: Array) -> dict[str, str]:
    """Return the numbers of the page for a case."""
    wrong, dark = maps["seg"] != annotation, maps["entropy"] < SURE
    near, result = near_structure(torch.as_tensor(annotation)).numpy(), maps["report"]["result"]
    return {
        "wrong voxels that are dark": f"{fraction(dark, wrong):.1%}",
        "wrong voxels of the core that are dark": f"{fraction(dark, wrong & (annotation == 2)):.1%}",
        "dark voxels near the structure that are wrong": f"{fraction(wrong, dark & near):.1%}",
        "Dice of body and core": ", ".join(f"{dice(maps['seg'] == k, annotation == k):.2f}" for k in (1, 2)),
        "`agreement`": f"{result['features']['agreement']:.2f}",
        "`predicted_dice`": f"{result['predicted_dice']['value']:.2f}" if "predicted_dice" in result else "none",
        "`unlike_usual`": "; ".join(result["unlike_usual"]) or "nothing",
    }


def draw_case(title: str, image: Array, phantom: Phantom, annotation: Array, maps: Mapping[str, Any]) -> Figure:
    """Draw the most uncertain slice of a case: a row of panels, below each its legend or color bar."""
    entropy, seg = maps["entropy"], maps["seg"]
    z = int(entropy.sum(axis=(0, 1)).argmax())
    inside = np.nonzero(phantom.probability[0, :, :, z] < 0.99)
    box = tuple(slice(max(0, int(i.min()) - 4), int(i.max()) + 5) for i in inside)
    figure = Figure(figsize=(10.4, 2.85), facecolor="white")
    figure.suptitle(f"{title}: slice {z}, the most uncertain one", fontsize=11, weight="bold", y=0.97)
    panels = figure.subplots(1, 6)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.8, bottom=0.26, wspace=0.06)
    nats, errors = math.log(len(NAMES) + 1), ListedColormap([PALETTE[3], PALETTE[4]])
    low, high = np.percentile(image[:, :, z][box], (1, 99))
    for axes, head, volume, colors, lowest, highest, unit in (
        (panels[0], "Scan", image, "gray", low, high, None),
        (panels[1], "Known probability", 1 - phantom.probability[0], "cividis", 0, 1, "foreground"),
        (panels[2], "Mean probability", 1 - maps["prob"][..., 0], "cividis", 0, 1, "foreground"),
        (panels[3], "Entropy", entropy, "magma", 0, nats, "nats"),
        (panels[4], "Mutual information", maps["mutual-information"], "magma", 0, nats, "nats"),
        (panels[5], "Errors", np.where(seg != annotation, entropy < SURE, np.nan), errors, 0, 1, None),
    ):
        options: dict[str, Any] = {"cmap": colors, "vmin": lowest, "vmax": highest, "interpolation": "nearest"}
        shown = axes.imshow(volume[:, :, z][box].T, origin="lower", **options)
        axes.set_title(head, fontsize=10)
        axes.set(xticks=[], yticks=[], anchor="N")
        if unit:
            bar = figure.colorbar(shown, cax=axes.inset_axes((0.06, -0.1, 0.88, 0.06)), orientation="horizontal")
            bar.set_label(unit, fontsize=8.5)
            bar.ax.tick_params(labelsize=8)
    handles: list[Any] = []
    for k, name in enumerate(NAMES, start=1):  # the core lies in the body, so the body's border contains both
        for labels, style in ((seg, {"colors": [PALETTE[k - 1]]}), (annotation, DASHED)):
            if (mask := (labels >= k)[:, :, z][box].T).any():
                panels[0].contour(mask.astype(float), levels=[0.5], **style)
        handles.append(Line2D([], [], color=PALETTE[k - 1], linewidth=2, label=f"segmentation: {name}"))
    handles.append(Line2D([], [], label="an annotation", color="gray", linestyle="--"))
    errors_shown = [Patch(color=PALETTE[3], label="wrong, uncertain"), Patch(color=PALETTE[4], label="wrong and dark")]
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.03), "handlelength": 1.6}
    for axes, shown_handles in ((panels[0], handles), (panels[5], errors_shown)):
        axes.legend(handles=shown_handles, fontsize=8, frameon=False, **place)
    return figure


def draw_reliability(contenders: Mapping[str, Array], known: Array) -> Figure:
    """Draw known against predicted probability, and the distribution of the predictions."""
    figure = Figure(figsize=(7.2, 3.9), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="perfect calibration (error 0)")
    colors = (PALETTE[0], PALETTE[6], PALETTE[2])
    for (name, predicted), color, marker in zip(contenders.items(), colors, "os^", strict=True):
        mean, true, part = reliability(predicted, known)
        error = (part * np.abs(mean - true)).sum()
        left.plot(mean, true, marker=marker, markersize=4, color=color, label=f"{name} ({error:.3f})")
        right.plot(mean, part, marker=marker, markersize=3, color=color, linewidth=1)
    figure.suptitle(f"One synthetic scan, near borders, {BINS} bins", fontsize=10, weight="bold")
    left.legend(fontsize=7.5, frameon=False, loc="upper left")
    left.set(ylabel="known probability", ylim=(-0.02, 1.02))
    right.set(ylabel="part of the voxels", ylim=(0, None))
    for axes in (left, right):
        axes.set(xlabel="predicted probability", xlim=(-0.02, 1.02), axisbelow=True)
        axes.grid(color="#E5E5E5", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Print the numbers of the page and draw its pictures."""
    phantom = make_phantom_scan(seed=SEED)
    annotation = phantom.draw_annotation(np.random.default_rng(SEED))
    scans = {"good": phantom.image, "bad": degraded(phantom.image, BLUR, NOISE, np.random.default_rng(SEED))}
    titles = {"good": "Synthetic scan, as generated", "bad": "The same scan after blur and noise"}
    with tempfile.TemporaryDirectory() as folder:
        found = infer(scans, Path(folder) / "cases")
        plain = {"calibrated": False, "outputs": "default"}
        many = infer({"good": phantom.image}, Path(folder) / "many", members=MANY_MEMBERS, **plain)["good"]
        alone = infer({"good": phantom.image}, Path(folder) / "segmenter", start_step=0, members=1, **plain)["good"]
    good, bad = (table(found[case], annotation) for case in scans)
    print("| | as generated | blurred and noisy |", "|---|---|---|", sep="\n")
    print(*(f"| {name} | {value} | {bad[name]} |" for name, value in good.items()), sep="\n")
    for case, image in scans.items():
        figure = draw_case(titles[case], image, phantom, annotation, found[case])
        figure.savefig(PICTURES / f"how_sure_{case}.png", dpi=250)
    region = (phantom.probability.max(0) < 0.98) | (phantom.probability[0] < 0.5)  # near borders
    contenders = {
        "segmenter": alone["prob"][..., 1:][region],
        "ensemble, mean probability": many["prob"][..., 1:][region],
        "ensemble, frequency of the members": np.stack([(many["members"] == k).mean(-1)[region] for k in (1, 2)], -1),
    }
    figure = draw_reliability(contenders, np.moveaxis(phantom.probability[1:], 0, -1)[region])
    figure.savefig(PICTURES / "how_sure_reliability.png", dpi=250)


if __name__ == "__main__":
    main()
