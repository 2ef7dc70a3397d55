"""What do whole volumes cost, can their windows be seen in the answer, and what does leaving windows out change?

``python benchmarks/volume/volume.py`` measures, each part in one run: ``cost`` times active windows against all
windows, ``memory`` weighs ensembles of different sizes, ``seams`` looks for the windows in the answer. ``case`` asks a
bundle about labelled scans, with windows left out more and less boldly; it needs ``--dataset_dir``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import nn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.trust import measuring  # noqa: E402
from monai_pdddpm.bundle import keep_freed_memory  # noqa: E402
from monai_pdddpm.data import labelled_cases  # noqa: E402
from monai_pdddpm.data.phantom_distribution import CLASS_MEANS, NOISE_SD, Phantom, make_phantom_scan  # noqa: E402
from monai_pdddpm.inferers import PDDDPMInferer  # noqa: E402
from monai_pdddpm.inferers.active_voxels import active_voxels  # noqa: E402
from monai_pdddpm.inferers.autocast import autocast  # noqa: E402
from monai_pdddpm.inferers.chain import reverse_chain  # noqa: E402
from monai_pdddpm.inferers.noise import member_noise  # noqa: E402
from monai_pdddpm.inferers.windows import WindowPlan  # noqa: E402
from monai_pdddpm.metrics import near_structure  # noqa: E402
from monai_pdddpm.networks import PDDDPM  # noqa: E402
from monai_pdddpm.transforms.case_summary import agreement  # noqa: E402
from monai_pdddpm.utils.errors import UserError, friendly_errors  # noqa: E402

mpl.use("agg")
from matplotlib import pyplot as plt  # noqa: E402

PARTS = ("cost", "memory", "seams", "case")
PHANTOM = ROOT / "bundles" / "phantom_segmentation"
SIZE, SEAM_SIZE = (256, 256, 192), (96, 112, 80)
PLACE = (0.2, 0.7, 0.6)  # of the scan, as a share of the room that it has: off-centre
SEED = 9000  # far from the seeds of the bundle's own scans
THRESHOLD_SD = 40.0  # doubt of the thresholds, in the image's units: the noise alone never reaches it
ENSEMBLES = ((1, False), (8, False), (64, False), (8, True))  # members, and whether they are returned
STAGES = ("segment", "noise", "encode", "chain", "blend", "statistics")
AXES = "xyz"
HANDOVER_REACH = 2  # planes on both sides of the middle between two windows, over which the Gaussians change places
BORDER_REACH = 3  # voxels on both sides of a window's border
CASE_SETTINGS: tuple[dict[str, Any], ...] = (
    {"windows": "all"},
    *({"windows": "active", "uncertainty_threshold": threshold, "dilation": 2} for threshold in (0.01, 0.05, 0.2)),
    *({"active": "presegmentation", "uncertainty_threshold": 0.05, "margin": margin} for margin in (0, 6)),
    {"active": "presegmentation", "uncertainty_threshold": 0.05, "margin": 2, "fusion": "step"},
)

Array = NDArray[Any]
Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan of the phantom in a large field of background.

    Attributes:
        image: float32 (X, Y, Z).
        box: where the scan lies.
        scan: what was pasted there.
    """

    image: Array
    box: Box
    scan: Phantom

    def normalised(self, value: Any) -> Any:
        """Return intensities in the units of the scan alone: empty space is no reason to show it brighter."""
        return (value - float(self.scan.image.mean())) / float(self.scan.image.std())

    def tensor(self) -> torch.Tensor:
        """Return what a network is given, (1, 1, X, Y, Z)."""
        return torch.as_tensor(self.normalised(self.image), dtype=torch.float32)[None, None]


class Thresholds(nn.Module):
    """A segmenter that is sure of background, at the cost of another one.

    The phantom bundle's own is in doubt in empty windows too, so that hardly one could be left out. This one compares
    each voxel with the classes' means; the other is run all the same, for its time.

    Args:
        segmenter: whose time is taken.
        means: intensity of each class.
        sd: of the intensities around them.
    """

    def __init__(self, segmenter: nn.Module, means: Sequence[float], sd: float) -> None:
        super().__init__()
        self.segmenter, self.means, self.sd = segmenter, list(means), sd

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K, ...) of an image (B, 1, ...)."""
        self.segmenter(image)
        return torch.cat([-(((image - mean) / self.sd) ** 2) / 2 for mean in self.means], dim=1)


def make_volume(size: Sequence[int], seed: int = SEED) -> Volume:
    """Make a field of the phantom's background with one default scan in it, off-centre.

    Raises:
        UserError: when the scan has no room.
    """
    scan = make_phantom_scan(seed=seed)
    room = [n - s for n, s in zip(size, scan.image.shape, strict=True)]
    if min(room) < 0:
        raise UserError(f"size: found {list(size)}, expected at least {list(scan.image.shape)}; give a larger --size")
    corner = [round(share * r) for share, r in zip(PLACE, room, strict=True)]
    box = tuple(slice(c, c + n) for c, n in zip(corner, scan.image.shape, strict=True))
    image = np.random.default_rng(seed).standard_normal(tuple(size), dtype=np.float32)
    image *= NOISE_SD
    image += CLASS_MEANS[0]
    image[box] = scan.image
    return Volume(image, box, scan)


def window_borders(plan: WindowPlan) -> list[list[int]]:
    """Return along each axis the inner planes where a window begins or ends; plane i lies before voxel i."""
    ends = [{end for w in plan.windows for end in (w[axis].start, w[axis].stop)} for axis in range(len(plan.size))]
    return [sorted(found - {0, n}) for found, n in zip(ends, plan.size, strict=True)]


def handover_planes(plan: WindowPlan, reach: int = HANDOVER_REACH) -> list[list[int]]:
    """Return along each axis the planes about half-way between neighbouring windows, where a Gaussian blend goes over.

    Args:
        plan: the windows.
        reach: planes on both sides of the middle that count as well.
    """
    found = []
    for axis, (n, width) in enumerate(zip(plan.size, plan.roi_size, strict=True)):
        starts = sorted({w[axis].start for w in plan.windows})
        middles = [(a + b + width) // 2 for a, b in itertools.pairwise(starts)]
        planes = {m + offset for m in middles for offset in range(-reach, reach + 1)}
        found.append(sorted(planes & set(range(1, n))))
    return found


def seam_energy(volume: torch.Tensor, borders: Sequence[Sequence[int]], region: torch.Tensor) -> dict[str, float]:
    """Compare the steps between neighbouring voxels across borders of windows with those elsewhere.

    Args:
        volume: (..., X, Y, Z); maps before the last three axes count alike.
        borders: planes along each axis, as of :func:`window_borders`.
        region: (X, Y, Z) bool; both voxels of a pair lie in it.

    Returns:
        mean absolute difference across borders, divided by that across all other planes: for each axis and ``overall``,
        1 where windows leave no trace; NaN where there is no such pair, or no difference elsewhere.
    """
    found, sums = {}, np.zeros((2, 2))
    for axis, planes in enumerate(borders):
        n = volume.shape[axis - len(borders)]
        here, next_ = (volume.narrow(axis - len(borders), first, n - 1) for first in (0, 1))
        pairs = region.narrow(axis, 0, n - 1) & region.narrow(axis, 1, n - 1)
        at_border = torch.zeros(n - 1, dtype=torch.bool)
        at_border[[p - 1 for p in planes]] = True
        shape = [n - 1 if a == axis else 1 for a in range(len(borders))]
        step = (next_ - here).abs()
        own = np.array(
            [
                (float(step[..., chosen].double().sum()), int(chosen.sum()))
                for chosen in (pairs & at_border.view(shape), pairs & ~at_border.view(shape))
            ]
        )
        found[AXES[axis]] = _ratio(own)
        sums += own
    return found | {"overall": _ratio(sums)}


def _ratio(sums: Array) -> float:
    """Return the first mean divided by the second, from rows of sum and number."""
    (border, at_border), (other, elsewhere) = sums
    return float((border / at_border) / (other / elsewhere)) if at_border and elsewhere and other else float("nan")


def near_borders(size: Sequence[int], borders: Sequence[Sequence[int]], reach: int = BORDER_REACH) -> torch.Tensor:
    """Return the voxels of which at most ``reach - 1`` others lie between them and a border: (X, Y, Z) bool."""
    near = torch.zeros(*size, dtype=torch.bool)
    for axis, planes in enumerate(borders):
        for p in planes:
            first, last = max(0, p - reach), min(size[axis], p + reach)
            near.narrow(axis, first, last - first).fill_(True)
    return near


def shares_squared(plan: WindowPlan) -> torch.Tensor:
    """Return the sum over windows of their squared shares in a voxel: 1 of one window, 1/n of n that count alike."""
    squares = torch.zeros_like(plan.total)
    for window in plan.windows:
        squares[window] += plan.weight**2
    return squares / plan.total**2


def spread_kept(variance: torch.Tensor, known: torch.Tensor, plan: WindowPlan, region: torch.Tensor) -> float:
    """Compare the variance where windows share a voxel with that where one counts most.

    Args:
        variance: (X, Y, Z).
        known: (X, Y, Z) what it would be in proportion to.
        plan: the windows.
        region: (X, Y, Z) bool.

    Returns:
        variance per known variance in the half of the region that is shared most, divided by that in the other half; 1
        where windows leave no trace, less where they average the members' differences away.
    """
    shares = shares_squared(plan)
    shared = shares <= shares[region].median()
    halves = [region & chosen for chosen in (shared, ~shared)]
    meeting, apart = (float(variance[half].sum() / known[half].sum()) for half in halves)
    return meeting / apart if apart else float("nan")


def with_own_noise(
    inferer: PDDDPMInferer, network: PDDDPM, image: torch.Tensor, preseg: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw every window on noise of its own, and blend mean and variance as of independent windows.

    A weighted mean of independent members has the windows' variances weighted by the squares: where windows overlap the
    spread is lost, which is what a field of noise for the whole volume is for.

    Args:
        inferer: settings of the chain and the windows.
        network: with parts.
        image: (1, C, X, Y, Z), at least a window.
        preseg: (K, X, Y, Z) the segmenter's answer.

    Returns:
        mean (K, X, Y, Z) and variance of the foreground classes (K-1, X, Y, Z).
    """
    plan = WindowPlan(image.shape[2:], inferer.roi_size, inferer.overlap, inferer.mode)
    presegmentation = network.propose(preseg[None])
    mean, variance = torch.zeros_like(preseg), torch.zeros_like(preseg[1:])
    shape = (len(preseg), *plan.roi_size)
    for number, window in enumerate(plan.windows):
        noise = [
            torch.stack([member_noise(inferer.seed + 1 + number, m, draw, shape) for m in range(inferer.members)])
            for draw in range(inferer.chain.draws)
        ]
        with torch.no_grad(), autocast(image.device, inferer.precision):
            proposed = plan.cut(presegmentation, window)
            features = network.encode(plan.cut(image, window), proposed)
            drawn = reverse_chain(network, proposed, features, noise, inferer.chain).float()
        plan.add(mean, window, drawn.mean(0))
        plan.cut(variance, window).add_(plan.weight**2 * drawn.var(0, correction=0)[1:])
    return plan.finish(mean), variance.div_(plan.total**2)


def ask(inferer: PDDDPMInferer, network: nn.Module, image: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return an inferer's output, (channels, X, Y, Z), and what it says it ran, with the ``total`` of seconds."""
    begin = time.perf_counter()
    output = inferer(MetaTensor(image), network)
    total = time.perf_counter() - begin
    assert isinstance(output, MetaTensor)
    ran = output.meta["ensemble_run"][0].as_report()
    return output.as_tensor()[0], ran | {"total": total}


def inferer_of(bundle: Path, **overrides: Any) -> PDDDPMInferer:
    """Return a bundle's inferer under other settings."""
    inferer = measuring.read_bundle(bundle, overrides).get_parsed_content("inferer")
    assert isinstance(inferer, PDDDPMInferer)
    return inferer


def phantom_pair(volume: Volume | None = None) -> PDDDPM:
    """Return the phantom bundle's networks; of a volume, with thresholds in the segmenter's place."""
    network = measuring.pair_of(measuring.read_bundle(PHANTOM, {}), PHANTOM / "models" / "model.pt")
    if volume is not None:
        sd = THRESHOLD_SD / float(volume.scan.image.std())
        network.segmenter = Thresholds(network.segmenter, [volume.normalised(m) for m in CLASS_MEANS], sd)
    return network


def windows_left(preseg: torch.Tensor, inferer: PDDDPMInferer) -> int:
    """Return in how many windows a pre-segmentation, (K, X, Y, Z), leaves something to decide."""
    voxels = active_voxels(preseg, inferer.doubt, inferer.margin)
    plan = WindowPlan(voxels.shape, inferer.roi_size, inferer.overlap, inferer.mode)
    return sum(bool(voxels[window].any()) for window in plan.windows)


def cost(
    size: Sequence[int] = SIZE, members: int = 2, steps: int = 2, repeats: int = 3, folder: Path = HERE
) -> list[dict[str, Any]]:
    """Time active windows, in both orders of work, against all windows; one line for each."""
    volume = make_volume(size)
    image, network = volume.tensor(), phantom_pair(volume)
    settings = {"members": members, "num_steps": steps, "write_members": False}
    lines: list[dict[str, Any]] = []
    all_windows = torch.empty(0)
    for active, fusion, times in (
        ("all", "window", 1),
        ("presegmentation", "window", repeats),
        ("presegmentation", "step", repeats),
    ):
        inferer = inferer_of(PHANTOM, active=active, fusion=fusion, **settings)
        runs = []
        for _ in range(times):
            output, ran = ask(inferer, network, image)
            runs.append(ran)
        mean = output[: len(CLASS_MEANS)].clone()  # a view would hold the rest of the output
        if not lines:
            all_windows = mean
        seconds = {stage: float(np.median([r["seconds"].get(stage, 0.0) for r in runs])) for stage in STAGES}
        total = float(np.median([r["total"] for r in runs]))
        lines.append(
            {
                "active": active,
                "fusion": fusion,
                "runs": times,
                "windows_run": runs[0]["windows_run"],
                "windows_skipped": runs[0]["windows_skipped"],
                "seconds": seconds | {"total": total},
                "times_faster": (lines[0]["seconds"]["total"] if lines else total) / total,
                "largest_difference": float((mean - all_windows).abs().max()),
                "dice": agreement(mean.argmax(0)[None], all_windows.argmax(0), range(1, len(mean))),
            }
        )
    own, _ = ask(inferer_of(PHANTOM, time_steps=[], **settings), phantom_pair(), image)
    left = windows_left(own[-len(CLASS_MEANS) :], inferer)
    head = ["windows", "fusion", "runs", "run", "skipped", *(f"{s} s" for s in STAGES), "total s", "times faster"]
    rows = [
        [x["active"], x["fusion"], x["runs"], x["windows_run"], x["windows_skipped"]]
        + [f"{x['seconds'][s]:.2f}" for s in (*STAGES, "total")]
        + [f"{x['times_faster']:.2f}", f"{x['largest_difference']:.3g}", f"{x['dice']:.4f}"]
        for x in lines
    ]
    text = table([*head, "largest difference", "Dice"], rows)
    text += (
        f"\n\nMedians over the runs; all windows are run once, since that is long. {members} members, {steps} steps, "
        f"{' x '.join(map(str, size))} voxels. Difference and Dice are between the answer and that of all windows. "
        f"The bundle's own segmenter would leave {left} of {lines[0]['windows_run']} windows to run."
    )
    content = {
        "size": list(size),
        "members": members,
        "num_steps": steps,
        "windows_of_own_segmenter": left,
        "rows": lines,
    }
    write("cost", content, text, folder)
    return lines


def status_mib(name: str) -> float | None:
    """Return a line of the process's own status in MiB, None where the system has none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)


def peak_mib() -> float:
    """Return the most memory that this process held, in MiB."""
    # Linux starts a child's ru_maxrss at its parent's peak, so the status comes first
    high = status_mib("VmHWM")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return high if high is not None else largest / (2**20 if sys.platform == "darwin" else 2**10)


def memory_of(size: Sequence[int], members: int, steps: int, fusion: str, return_members: bool) -> dict[str, Any]:
    """Segment the volume in this process, which has done nothing else, and return what memory that took, in MiB."""
    volume = make_volume(size)
    image, network = volume.tensor(), phantom_pair(volume)
    inferer = inferer_of(PHANTOM, members=members, steps=steps, fusion=fusion, write_members=return_members)
    before, files = status_mib("VmRSS") or peak_mib(), status_mib("RssFile")
    output, ran = ask(inferer, network, image)
    after = status_mib("RssFile")
    return {
        "fusion": fusion,
        "members": members,
        "return_members": return_members,
        "before": before,
        "peak": peak_mib(),
        "in_file": None if after is None or files is None else after - files,
        "output": output.numel() * output.element_size() / 2**20,
        "windows_run": ran["windows_run"],
        "seconds": ran["total"],
    }


def memory(
    size: Sequence[int] = SIZE,
    steps: int = 2,
    ensembles: Sequence[tuple[int, bool]] = ENSEMBLES,
    fusions: Sequence[str] = ("window", "step"),
    folder: Path = HERE,
) -> list[dict[str, Any]]:
    """Weigh ensembles, each in a process of its own; the first of a fusion is what the others are compared with."""
    lines: list[dict[str, Any]] = []
    for fusion in fusions:
        first: dict[str, Any] = {}
        for members, return_members in ensembles:
            settings = {"size": list(size), "members": members, "num_steps": steps, "fusion": fusion}
            settings["return_members"] = return_members
            command = [sys.executable, str(HERE / "volume.py"), "--memory_of", json.dumps(settings)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise UserError(f"memory: the process with {members} members, {fusion}, ended with {done.returncode}")
            line = json.loads(done.stdout.splitlines()[-1])
            first = first or line
            line["growth_percent"] = 100 * (line["peak"] / first["peak"] - 1)
            lines.append(line)
    head = ["fusion", "members", "returned", "before MiB", "peak MiB", "growth %", "of it files MiB", "output MiB", "s"]
    rows = [
        [
            x["fusion"],
            x["members"],
            "yes" if x["return_members"] else "no",
            f"{x['before']:.0f}",
            f"{x['peak']:.0f}",
            f"{x['growth_percent']:+.1f}",
            "-" if x["in_file"] is None else f"{x['in_file']:.0f}",
            f"{x['output']:.0f}",
            f"{x['seconds']:.1f}",
        ]
        for x in lines
    ]
    text = table(head, rows)
    text += f"\n\n{steps} steps, {' x '.join(map(str, size))} voxels, {lines[0]['windows_run']} windows run."
    write("memory", {"size": list(size), "num_steps": steps, "rows": lines}, text, folder)
    return lines


def seams(
    size: Sequence[int] = SEAM_SIZE, overrides: Mapping[str, Any] | None = None, folder: Path = HERE
) -> list[dict[str, Any]]:
    """Look for the windows in both orders of work, and in answers that must and that cannot show them."""
    scan = make_phantom_scan(size, seed=SEED)
    image = torch.as_tensor((scan.image - scan.image.mean()) / scan.image.std())[None, None].float()
    known = torch.as_tensor(scan.probability)
    label, classes, law = known.argmax(0), len(known), (known * (1 - known))[1:]
    network, region = phantom_pair(), near_structure(label)
    settings = {**(overrides or {}), "write_members": False, "windows": "all"}
    answers: dict[str, tuple[torch.Tensor, torch.Tensor, float | None]] = {}
    preseg = known
    for name, changes in (
        ("one window", {"roi_size": list(size)}),
        ("step", {"fusion": "step"}),
        ("window", {"fusion": "window"}),
    ):
        inferer = inferer_of(PHANTOM, **{**settings, **changes})
        output, ran = ask(inferer, network, image)
        answers[name] = (output[:classes], output[classes + 1 : 2 * classes], ran["total"])
        preseg = output[2 * classes : 3 * classes]
    for name, mode in (("own noise", inferer.mode), ("own noise, constant", "constant")):
        inferer.mode = mode
        begin = time.perf_counter()
        own = with_own_noise(inferer, network, image, preseg)
        answers[name] = (*own, time.perf_counter() - begin)
    answers["the law"] = (known, law, None)
    inferer = inferer_of(PHANTOM, **settings)
    plan = WindowPlan(size, inferer.roi_size, inferer.overlap, inferer.mode)
    borders = window_borders(plan)
    handover, rim = handover_planes(plan), near_borders(size, borders)
    lines: list[dict[str, Any]] = []
    for name in ("window", "step", "own noise", "own noise, constant", "one window", "the law"):
        mean, variance, seconds = answers[name]
        answer = mean.argmax(0)
        lines.append(
            {
                "name": name,
                "variance": seam_energy(variance.sum(0), borders, region),
                "mean": seam_energy(mean, borders, region),
                "variance_handover": seam_energy(variance.sum(0), handover, region),
                "mean_handover": seam_energy(mean, handover, region),
                "spread_kept": spread_kept(variance.sum(0), law.sum(0), plan, region),
                "dice_near_borders": agreement(answer[rim][None], label[rim], range(1, classes)),
                "dice_elsewhere": agreement(answer[~rim][None], label[~rim], range(1, classes)),
                "seconds": seconds,
            }
        )
    kinds = ("overall", *AXES)
    head = ["answer", *(f"{what} {kind}" for what in ("variance", "mean") for kind in kinds)]
    head += ["variance handover", "mean handover", "spread kept"]
    rows = [
        [
            x["name"],
            *(f"{x[what][kind]:.3f}" for what in ("variance", "mean") for kind in kinds),
            *(f"{x[f'{what}_handover']['overall']:.3f}" for what in ("variance", "mean")),
            f"{x['spread_kept']:.3f}",
            f"{x['dice_near_borders']:.4f}",
            f"{x['dice_elsewhere']:.4f}",
            "-" if x["seconds"] is None else f"{x['seconds']:.1f}",
        ]
        for x in lines
    ]
    text = table([*head, "Dice near borders", "Dice elsewhere", "s"], rows)
    text += (
        f"\n\n{inferer.members} members, {len(inferer.chain.time_steps)} steps, {' x '.join(map(str, size))} voxels, "
        f"borders at {', '.join(f'{axis} {planes}' for axis, planes in zip(AXES, borders, strict=True))}."
    )
    content = {"size": list(size), "members": inferer.members, "time_steps": list(inferer.chain.time_steps)}
    write("seams", content | {"borders": borders, "handover": handover, "rows": lines}, text, folder)
    shown = {name: answers[name][1].sum(0) for name in ("window", "step", "own noise")}
    draw_slices(shown, borders, folder / "results_seams.png")
    return lines


def draw_slices(maps: Mapping[str, torch.Tensor], borders: Sequence[Sequence[int]], path: Path) -> None:
    """Draw one slice of each map, (X, Y, Z), on one scale, with the borders of windows marked at the rim."""
    first = next(iter(maps.values()))
    level = int(first.sum(dim=(0, 1)).argmax())
    top = max(float(volume[..., level].max()) for volume in maps.values())
    figure, axes = plt.subplots(1, len(maps), figsize=(3.6 * len(maps), 4.2), layout="constrained")
    for axis, (name, volume) in zip(axes, maps.items(), strict=True):
        shown = axis.imshow(volume[..., level].T.numpy(), origin="lower", cmap="magma", vmin=0, vmax=top)
        axis.set_title(name)
        # plane i lies half a voxel before the centre of voxel i
        axis.set_xticks([p - 0.5 for p in borders[0]], [])
        axis.set_yticks([p - 0.5 for p in borders[1]], [])
        axis.tick_params(top=True, right=True, length=8, width=1.5, color="tab:blue")
    figure.colorbar(shown, ax=axes, shrink=0.8, label="variance, summed over classes")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def case(
    bundle: Path,
    model_file: Path,
    dataset_dir: Path,
    section: str = "validation",
    cases: int = 1,
    overrides: Mapping[str, Any] | None = None,
    folder: Path = HERE,
) -> list[dict[str, Any]]:
    """Ask a bundle about its first labelled cases under each of the settings; one line for each setting."""
    parser = measuring.read_bundle(bundle, overrides or {})
    network, classes = measuring.pair_of(parser, model_file), len(parser.get_parsed_content("labels"))
    items = measuring.load_cases(parser, labelled_cases(dataset_dir, section)[:cases])
    for item in items:
        if item["image"].shape[1] > 1 and parser["fourth_dimension"] == "time":
            raise UserError(
                f"{item['case']}: found a series of {item['image'].shape[1]} frames, expected one, since "
                "labels of frames are not compared; give a --dataset_dir of single scans"
            )
    lines: list[dict[str, Any]] = []
    for settings in CASE_SETTINGS:
        inferer = inferer_of(bundle, **{**(overrides or {}), "write_members": True, "fusion": "window", **settings})
        found = {}
        for item in items:
            output, ran = ask(inferer, network, item["image"])
            drawn = output[3 * classes :].unflatten(0, (-1, classes))
            measured = measuring.measure(output[:classes], drawn, item["label"], item["voxel_ml"])
            found[item["case"]] = {name: measured[name] for name in ("dice", "ece", "nll")} | {
                "seconds": ran["total"],
                "windows_run": ran["windows_run"],
                "windows_skipped": ran["windows_skipped"],
            }
        means = {name: float(np.mean([f[name] for f in found.values()])) for name in next(iter(found.values()))}
        lines.append({"settings": settings, "members": inferer.members, "cases": found, "mean": means})
    head = ["windows", "uncertainty_threshold", "margin", "fusion", "Dice", "ECE", "NLL", "s", "run", "skipped"]
    rows = [
        [
            x["settings"].get(name, default)
            for name, default in (("active", ""), ("uncertainty_threshold", "-"), ("margin", "-"))
        ]
        + [x["settings"].get("fusion", "window")]
        + [f"{x['mean']['dice']:.4f}", f"{x['mean']['ece']:.4f}", f"{x['mean']['nll']:.4f}"]
        + [f"{x['mean']['seconds']:.1f}", f"{x['mean']['windows_run']:g}", f"{x['mean']['windows_skipped']:g}"]
        for x in lines
    ]
    text = table(head, rows)
    text += f"\n\n{bundle.name}, {section}, cases: {len(items)}, members: {lines[0]['members']}; means over the cases."
    write("case", {"bundle": bundle.name, "data_list_key": section, "rows": lines}, text, folder)
    return lines


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def write(part: str, content: Mapping[str, Any], text: str, folder: Path) -> None:
    """Print a part's table; keep it and the numbers."""
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads"
    print(f"{part}\n\n{text}\n", flush=True)
    numbers = json.dumps({"machine": machine, **content}, indent=1)
    (folder / f"results_{part}.json").write_text(numbers + "\n", encoding="utf-8")
    (folder / f"results_{part}.md").write_text(f"{text}\n\n{machine}.\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the parts that are asked for."""
    friendly_errors()
    keep_freed_memory()  # as the bundles do
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parts", nargs="+", choices=PARTS, help="all by default, case only with --dataset_dir")
    options.add_argument("--size", type=int, nargs=3, default=SIZE, help="of the volume of cost and memory, in voxels")
    options.add_argument("--members", type=int, default=2, help="of cost")
    options.add_argument("--num_steps", type=int, default=2, help="of cost and memory")
    options.add_argument("--repeats", type=int, default=3, help="runs of cost with active windows")
    options.add_argument("--dataset_dir", type=Path, help="of case: labelled scans")
    options.add_argument("--bundle", type=Path, default=PHANTOM, help="of case")
    options.add_argument("--model_file", type=Path, help="of case, the bundle's own by default")
    options.add_argument("--section", default="validation", help="of case: training or validation")
    options.add_argument("--cases", type=int, default=1, help="of case: take the first n")
    options.add_argument("--overrides", default="{}", help="of case and seams: changes of evaluate.json, as JSON")
    options.add_argument("--output_dir", type=Path, default=HERE, help="for the results")
    options.add_argument("--memory_of", help=argparse.SUPPRESS)  # a process of the memory part
    args = options.parse_args(argv)
    if args.memory_of:
        print(json.dumps(memory_of(**json.loads(args.memory_of))))
        return
    parts = args.parts or [part for part in PARTS if part != "case" or args.dataset_dir]
    if "case" in parts and not args.dataset_dir:
        raise UserError("dataset_dir: found none, expected a folder of labelled scans for case; give --dataset_dir")
    overrides = json.loads(args.overrides)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if "cost" in parts:
        cost(args.size, args.members, args.steps, args.repeats, args.output_dir)
    if "memory" in parts:
        memory(args.size, args.steps, folder=args.output_dir)
    if "seams" in parts:
        seams(overrides=overrides, folder=args.output_dir)
    if "case" in parts:
        model_file = args.model_file or args.bundle / "models" / "model.pt"
        case(args.bundle, model_file, args.dataset_dir, args.section, args.cases, overrides, args.output_dir)


if __name__ == "__main__":
    main()
