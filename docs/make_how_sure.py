"""Draw the pictures of `docs/how-to/use-the-uncertainty.md` and print its numbers: `python docs/make_how_sure.py`.

A few minutes on one core, no data: a phantom is generated whose true probabilities are known, and the phantom's bundle
draws members for it as generated, and blurred and with noise. Everything else is as in the bundle's `inference.json`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import beta, norm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.trust.phantom import calibration_error, near_border  # noqa: E402
from monai_pdddpm.bundle import load_network  # noqa: E402
from monai_pdddpm.data.phantom_distribution import Phantom, make_phantom_scan  # noqa: E402
from monai_pdddpm.metrics.calibration import near_structure  # noqa: E402
from monai_pdddpm.metrics.recalibration import COVERAGE, Calibration  # noqa: E402
from monai_pdddpm.metrics.uncertainty import predictive_entropy  # noqa: E402
from monai_pdddpm.transforms import CaseSummaryd, SplitOutputd, Uncertaintyd  # noqa: E402
from monai_pdddpm.visualize.colors import PALETTE as COLOURS  # noqa: E402

PICTURES = Path(__file__).parent / "pictures"
BUNDLE = ROOT / "bundles" / "phantom_segmentation"
SEED = 9000  # of the scan, of its reading and of what spoils it; the bundle's own scans have other seeds
BLUR, NOISE = 2.0, 100.0  # voxels; intensities, of which the generator's own noise has 15
MEMBERS, MANY_MEMBERS = 8, 48
SURE = 0.2  # nats: 95 % for one class and 5 % for another
BINS = 15
WRONG_IN_DOUBT, WRONG_AND_DARK = COLOURS[3], COLOURS[4]
READING: dict[str, Any] = {
    "linestyle": (0, (2.5, 1.8)),
    "path_effects": [Stroke(linewidth=1.9, foreground="black"), Normal()],
}

Array = NDArray[Any]
Maps = Mapping[str, Any]


def spoilt(image: Array, blur: float, noise: float, rng: np.random.Generator) -> Array:
    """Return a scan after a Gaussian blur (its sigma in voxels) and then white noise (its sd in intensities)."""
    return gaussian_filter(image, blur) + noise * rng.standard_normal(image.shape).astype(np.float32)


def slice_of_most_doubt(entropy: Array) -> int:
    """Return the index along Z of the slice of an (X, Y, Z) map whose sum is greatest."""
    return int(entropy.sum(axis=(0, 1)).argmax())


def reliability(predicted: Array, known: Array, bins: int = BINS) -> tuple[Array, Array, Array]:
    """Sort voxels by their predicted probability into bins of equal width.

    Args:
        predicted: probabilities in [0, 1].
        known: the true ones, of the same shape.
        bins: number of them; a bin holds its lower edge, the last one 1 too.

    Returns:
        For each bin that is not empty: mean prediction, mean known probability, share of the voxels.
    """
    predicted, known = predicted.ravel().astype(float), known.ravel().astype(float)
    index = np.minimum((predicted * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=values, minlength=bins)[count > 0] for values in (predicted, known)]
    count = count[count > 0]
    return sums[0] / count, sums[1] / count, count / count.sum()


def confident_errors(wrong: Array, entropy: Array, sure: float = SURE) -> float:
    """Return the share of the wrong voxels whose entropy is below ``sure``: errors that the map does not show."""
    return float((entropy[wrong] < sure).mean()) if wrong.any() else math.nan


def errors_where_sure(wrong: Array, entropy: Array, region: Array, sure: float = SURE) -> float:
    """Return the share of wrong voxels among those of a region whose entropy is below ``sure``."""
    dark = region & (entropy < sure)
    return float(wrong[dark].mean()) if dark.any() else math.nan


def least_coverage(cases: int, coverage: float = COVERAGE, chance: float = 0.1) -> float:
    """Return what a conformal interval covers at least, but for a given chance of having fitted on easy cases.

    Over draws of the cases that the factor is fitted on, the coverage of its k-th smallest score is distributed as
    Beta(k, n + 1 - k) (Vovk 2012, arXiv:1209.2673; Angelopoulos & Bates 2021, arXiv:2107.07511, section 3.2).
    """
    k = min(cases, math.ceil((cases + 1) * coverage))
    return float(beta.ppf(chance, k, cases + 1 - k))


def dice(a: Array, b: Array) -> float:
    """Return the Dice of two masks, 1 where both are empty."""
    size = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / size if size else 1.0


def read_bundle(members: int) -> ConfigParser:
    """Return the bundle's configuration of inference, on the CPU, for a number of members."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.update({"bundle_root": str(BUNDLE), "members": members, "write_members": True, "device": "cpu"})
    return parser


def infer(parser: ConfigParser, network: torch.nn.Module, image: Array) -> torch.Tensor:
    """Return the inferer's output for a scan that is normalised first, channels leading."""
    inferer = parser.get_parsed_content("inferer")
    inferer.progress = False
    normal = torch.as_tensor((image - image.mean()) / image.std()).float()
    with torch.no_grad():
        return inferer(normal[None, None], network)[0]


def answer(parser: ConfigParser, network: torch.nn.Module, image: Array) -> dict[str, Any]:
    """Return the maps and the result that inference would write for a scan of 1 mm voxels."""
    labels, calibration = parser.get_parsed_content("labels"), parser.get_parsed_content("calibration")
    data: dict[Any, Any] = {"pred": infer(parser, network, image)}
    data = SplitOutputd("pred", num_classes=len(labels))(data)
    data["members"] = data["members"].unflatten(0, (-1, len(labels))).argmax(dim=1)
    data["untempered"] = data["pred"]
    data = Uncertaintyd("pred", temperature=calibration.temperature)(data)
    data = CaseSummaryd("seg", labels=labels, calibration=calibration)(data)
    return {str(key): value.numpy() if isinstance(value, torch.Tensor) else value for key, value in data.items()}


def compare(maps: Maps, reading: Array, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return what the page's table says of a case: name and value of each row."""
    seg, entropy = maps["seg"][0], maps["entropy"][0]
    wrong, near = seg != reading, near_structure(torch.as_tensor(reading)).numpy()
    result = maps["result"]
    found = [dice(seg == k, reading == k) for k in range(1, len(names) + 1)]
    predicted = result.get("predicted_dice")
    promised = f"{predicted['value']:.2f} ({_range(predicted['interval_90'])})" if predicted else "none"
    rows = [
        ("wrong voxels, as a share of those near the structure", _percent(wrong[near].mean())),
        (f"**wrong voxels that are dark (below {SURE} nats)**", f"**{_percent(confident_errors(wrong, entropy))}**"),
        (
            f"wrong voxels in the reading's {names[-1]} that are dark",
            _percent(confident_errors(wrong & (reading == len(names)), entropy)),
        ),
        ("dark voxels near the structure that are wrong", _percent(errors_where_sure(wrong, entropy, near))),
        (
            "mean entropy; mutual information near the structure (nats)",
            f"{entropy[near].mean():.2f}; {_mi(maps, near):.2f}",
        ),
        (f"Dice of {' and '.join(names)}; their mean", f"{', '.join(f'{d:.2f}' for d in found)}; {np.mean(found):.2f}"),
        ("`predicted_dice`", promised),
        ("`agreement`", f"{result['features']['agreement']:.2f}"),
    ]
    for k, name in enumerate(names, start=1):
        volume = result["volume_ml"][name]
        interval = _range(volume["interval_90"]) if "interval_90" in volume else "none"
        said = f"{volume['members_mean']:.2f}, {volume['members_sd']:.2f}, {interval}"
        rows.append((f"{name}, mL: mean, sd, `interval_90`; the reading", f"{said}; {(reading == k).sum() / 1000:.2f}"))
    rows.append(("`unlike_usual`", "; ".join(result["unlike_usual"]) or "nothing"))
    return rows


def table(good: Sequence[tuple[str, str]], bad: Sequence[tuple[str, str]]) -> list[str]:
    """Return both cases as a Markdown table."""
    lines = ["| | as generated | spoilt |", "|---|---|---|"]
    return [*lines, *(f"| {name} | {a} | {b} |" for (name, a), (_, b) in zip(good, bad, strict=True))]


def main() -> None:
    """Print the page's numbers and draw its pictures."""
    torch.set_num_threads(1)
    phantom = make_phantom_scan(seed=SEED)
    reading = phantom.draw_annotation(np.random.default_rng(SEED))
    parser = read_bundle(MEMBERS)
    network = load_network(parser.get_parsed_content("network_def"), parser.get_parsed_content("model_file"), "cpu")
    names = [name for index, name in parser.get_parsed_content("labels").items() if int(index)]
    bad_image = spoilt(phantom.image, BLUR, NOISE, np.random.default_rng(SEED))
    good, bad = (answer(parser, network, image) for image in (phantom.image, bad_image))

    print(f"scan: seed {SEED}; spoilt: blur of {BLUR:g} voxels, noise of {NOISE:g} (the generator's own: 15)")
    print(*table(compare(good, reading, names), compare(bad, reading, names)), sep="\n")
    print_reference(phantom, reading)
    calibration = parser.get_parsed_content("calibration")
    print_temperature(phantom, reading, good, calibration.temperature)
    print_calibration(calibration)

    for name, title, image, maps in (
        ("how_sure_good", "Synthetic scan, as generated", phantom.image, good),
        ("how_sure_bad", f"The same synthetic scan, blurred and with {NOISE / 15:.0f} times the noise", bad_image, bad),
    ):
        save(draw_case(title, image, phantom, reading, maps, names), name)

    output = infer(read_bundle(MANY_MEMBERS), network, phantom.image).numpy()
    curves = near_border_probabilities(output, near_border(phantom))
    known = phantom.probability[1:, near_border(phantom)]
    errors = {name: calibration_error(p, known, BINS) for name, p in curves.items()}
    print(f"calibration error against the known probabilities, near borders, {BINS} bins, {MANY_MEMBERS} members:")
    print(*(f"  {name}: {error:.3f}" for name, error in errors.items()), sep="\n")
    save(draw_reliability(curves, known, errors), "how_sure_reliability")


def near_border_probabilities(output: Array, region: Array, classes: int = 3) -> dict[str, Array]:
    """Return each contender's probabilities of the foreground classes in a region, from the inferer's output."""
    members = output[3 * classes :].reshape(-1, classes, *region.shape).argmax(1)
    frequency = np.stack([(members == k).mean(0) for k in range(1, classes)])
    return {
        "segmenter": output[2 * classes + 1 : 3 * classes, region],
        "ensemble, mean probability": output[1:classes, region],
        "ensemble, members' frequency": frequency[:, region],
    }


def print_reference(phantom: Phantom, reading: Array) -> None:
    """Print what an answer that knows the law of the annotations would have to own up to."""
    known = torch.as_tensor(phantom.probability)
    wrong, entropy = known.argmax(0).numpy() != reading, predictive_entropy(known, dim=0).numpy()
    near = near_structure(torch.as_tensor(reading)).numpy()
    print(
        f"the known probabilities as an answer: {_percent(wrong[near].mean())} of the voxels near the structure wrong, "
        f"{_percent(confident_errors(wrong, entropy))} of the wrong ones dark, "
        f"{_percent(errors_where_sure(wrong, entropy, near))} of the dark ones wrong"
    )


def print_calibration(calibration: Calibration) -> None:
    """Print what the bundle's calibration says of itself."""
    cases, judged = calibration.fitted["cases"], calibration.fitted["cross_validated"]
    factors = ", ".join(f"{name} {factor:.1f}" for name, factor in calibration.interval_factor.items())
    print(f"calibration on {cases} cases: factors of the spread {factors} (a Gaussian's sd: {norm.ppf(0.95):.2f});")
    print(*(f"  left out in turn, {name}: {value}" for name, value in judged.items()), sep="\n")
    print(f"  one such fit in ten covers less than {_percent(least_coverage(cases))} of new cases")


def print_temperature(phantom: Phantom, reading: Array, maps: Maps, temperature: float) -> None:
    """Print what the temperature did to the good case."""
    region = near_border(phantom)
    before, after = maps["untempered"], maps["pred"]
    entropy = predictive_entropy(torch.as_tensor(before), dim=0).numpy()
    errors = [calibration_error(p[1:, region], phantom.probability[1:, region], BINS) for p in (before, after)]
    near = near_structure(torch.as_tensor(reading))
    truth = torch.as_tensor(reading[near.numpy()]).long()
    nll = [
        float(torch.nn.functional.nll_loss(torch.as_tensor(p)[:, near].clamp(min=1e-6).log().T, truth))
        for p in (before, after)
    ]
    shares = [confident_errors(maps["seg"][0] != reading, e) for e in (entropy, maps["entropy"][0])]
    print(
        f"temperature {temperature:.2f}, {MEMBERS} members, as generated, before and after: "
        f"calibration error {errors[0]:.3f}, {errors[1]:.3f}; NLL of the reading {nll[0]:.3f}, {nll[1]:.3f}; "
        f"wrong voxels that are dark {_percent(shares[0])}, {_percent(shares[1])}; "
        f"mean entropy near the structure {entropy[near].mean():.2f}, {maps['entropy'][0][near].mean():.2f}"
    )


def draw_case(title: str, image: Array, phantom: Phantom, reading: Array, maps: Maps, names: Sequence[str]) -> Figure:
    """Draw a case in the slice with most uncertainty_threshold: a row of panels, below each its legend or colours."""
    entropy, seg = maps["entropy"][0], maps["seg"][0]
    z = slice_of_most_doubt(entropy)
    box = _box(phantom.probability[0, :, :, z] < 0.99)

    def cut(volume: Array) -> Array:
        return volume[:, :, z][box].T

    figure = Figure(figsize=(10.4, 2.85), facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: slice {z}, where doubt is greatest", fontsize=11, weight="bold", y=0.97)
    axes = figure.subplots(1, 6)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.8, bottom=0.26, wspace=0.06)
    wrong = np.ma.masked_where(cut(seg == reading), cut(entropy) < SURE)
    for panel, name, picture, colours, highest in (
        (axes[0], "Scan", None, None, 0),
        (axes[1], "Known probability", 1 - phantom.probability[0], "cividis", 1),
        (axes[2], "Mean probability", 1 - maps["pred"][0], "cividis", 1),
        (axes[3], "Entropy", entropy, "magma", math.log(len(names) + 1)),
        (axes[4], "Mutual information", maps["mutual_information"][0], "magma", math.log(len(names) + 1)),
        (axes[5], "Errors", None, None, 0),
    ):
        if picture is None:
            low, high = np.percentile(cut(image), (1, 99))
            panel.imshow(cut(image), cmap="gray", vmin=low, vmax=high, origin="lower")
        else:
            panel.imshow(cut(picture), cmap=colours, vmin=0, vmax=highest, origin="lower", interpolation="nearest")
        panel.set_title(name, fontsize=10)
        panel.set(xticks=[], yticks=[], anchor="N")
    _contours(axes[0], cut(seg), cut(reading), names)
    kinds = ListedColormap([WRONG_IN_DOUBT, WRONG_AND_DARK])
    axes[5].imshow(wrong, cmap=kinds, vmin=0, vmax=1, origin="lower", interpolation="nearest")
    shown = (
        (WRONG_IN_DOUBT, "wrong, in uncertainty_threshold"),
        (WRONG_AND_DARK, f"wrong and dark\n(below {SURE} nats)"),
    )
    _legend(axes[5], [Patch(color=colour, label=name) for colour, name in shown])
    _colour_bar(figure, axes[1:3], "probability of body or core")
    _colour_bar(figure, axes[3:4], "nats")
    _colour_bar(figure, axes[4:5], "nats")
    return figure


def draw_reliability(curves: Mapping[str, Array], known: Array, errors: Mapping[str, float]) -> Figure:
    """Draw known against predicted probability, and beside it how many voxels each bin has."""
    figure = Figure(figsize=(7.2, 3.9), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="as it should be (calibration error 0)")
    for (name, predicted), colour, mark in zip(
        curves.items(), (COLOURS[0], COLOURS[6], COLOURS[2]), "os^", strict=True
    ):
        said, true, share = reliability(predicted, known)
        left.plot(said, true, marker=mark, markersize=4, color=colour, label=f"{name} ({errors[name]:.3f})")
        right.plot(said, share, marker=mark, markersize=3, color=colour, linewidth=1)
    left.set_ylabel("known probability, mean of the bin", fontsize=9)
    figure.suptitle(f"One synthetic scan, near borders, {BINS} bins", fontsize=10, weight="bold")
    left.legend(fontsize=7.5, frameon=False, loc="upper left")
    left.set_ylim(-0.02, 1.02)
    right.set_ylim(0, None)
    right.set_ylabel("share of voxels", fontsize=9)
    for panel in (left, right):
        panel.set_xlabel("predicted probability, mean of the bin", fontsize=9)
        panel.set_xlim(-0.02, 1.02)
        panel.tick_params(labelsize=8)
        panel.grid(color="#E5E5E5", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, name: str) -> None:
    """Write a picture of the page."""
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", dpi=250)
    print(PICTURES / f"{name}.png")


def _box(mask: Array, margin: int = 4) -> tuple[slice, ...]:
    """Return the slices around what is true, with a margin."""
    return tuple(slice(max(0, int(i.min()) - margin), int(i.max()) + margin + 1) for i in np.nonzero(mask))


def _contours(axes: Axes, seg: Array, reading: Array, names: Sequence[str]) -> None:
    """Draw the borders of answer and reading. The core lies in the body, so a label's border holds the later ones."""
    handles = []
    for k, (name, colour) in enumerate(zip(names, COLOURS, strict=False), start=1):
        _contour(axes, seg >= k, colour, linewidths=1.8)
        absent = "" if (seg == k).any() else " (none)"
        handles.append(Line2D([], [], color=colour, linewidth=2, label=f"answer: {name}{absent}"))
    for k in range(1, len(names) + 1):
        for lines in _contour(axes, reading >= k, "white", linewidths=1.1, linestyles=[READING["linestyle"]]):
            lines.set_path_effects(READING["path_effects"])
    _legend(axes, [*handles, Line2D([], [], color="white", linewidth=1.1, label="a true reading", **READING)])


def _contour(axes: Axes, mask: Array, colour: str, **style: Any) -> list[Any]:
    """Draw the border of a mask; nothing where there is none."""
    return [axes.contour(mask.astype(float), levels=[0.5], colors=[colour], **style)] if mask.any() else []


def _colour_bar(figure: Figure, panels: Sequence[Axes], name: str) -> None:
    """Draw the colours of some panels below them."""
    left, right = panels[0].get_position().x0, panels[-1].get_position().x1
    inner = 0.06 * (right - left)
    axes = figure.add_axes((left + inner, 0.19, right - left - 2 * inner, 0.05))
    bar = figure.colorbar(panels[0].images[0], cax=axes, orientation="horizontal")
    bar.set_label(name, fontsize=8.5)
    bar.ax.tick_params(labelsize=8)


def _legend(axes: Axes, handles: Sequence[Any]) -> None:
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.03),
        fontsize=8,
        frameon=False,
        handlelength=1.6,
        borderaxespad=0.2,
    )


def _mi(maps: Maps, region: Array) -> float:
    return float(maps["mutual_information"][0][region].mean())


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}"


if __name__ == "__main__":
    main()
