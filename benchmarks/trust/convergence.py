"""Which denoiser and which training process learn faster? Quality against batches and seconds, on phantoms.

    python benchmarks/trust/convergence.py                                                      # on a GPU
    python benchmarks/trust/convergence.py --batches 100 400 --batch_size 4 --networks ODE-U-Net 'plain blocks'

Every network trains from random weights on fresh phantoms, with the bundle's segmenter and loss; each length is a
training of its own with a whole schedule of the learning rate. Columns: mean divergence KL(p || q) of the answer q from
the true probabilities p near the borders, in nats; GED of the members with annotations; seconds, of the processor on a
CPU. The table has all finished trainings in the folder of the work with this batch size and number of phantoms.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import DiffusionModelUNet
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import common
from benchmarks.speed.rivals import Concatenated
from benchmarks.trust.batches import Batches
from benchmarks.trust.fit import Budget, train_denoiser
from benchmarks.trust.phantom import CLASSES, near_border
from benchmarks.trust.samples import generalized_energy_distance
from benchmarks.trust.study import read_study
from benchmarks.trust.training import at_inference
from monai_pdddpm.data.phantom_distribution import Phantom, make_phantom_scan
from monai_pdddpm.networks import PDDDPM, SecondOrderODEBlock
from monai_pdddpm.utils.errors import friendly_errors

PAPER, RESIDUAL = "the paper's recipe, 10 calls from T'=300", "residual process, 5 calls from T'=664"
WIDE = {"network_def::denoiser::stem_channels": 16}
FROM_664 = {"start_step": 664, "num_steps": 5}
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # network of the study, its changes, its chain
    "ODE-U-Net": ("phantom_denoiser", {}, {}),
    "plain blocks": ("phantom_denoiser", {}, {}),
    "DiffusionModelUNet": ("phantom_denoiser", {}, {}),
    "ODE-U-Net, Dice in the loss": ("phantom_denoiser", {"loss::lambda_dice": 0.2}, {}),
    "ODE-U-Net, 16 channels at full resolution": ("phantom_denoiser", WIDE, {}),
    "plain blocks, 16 channels at full resolution": ("phantom_denoiser", WIDE, {}),
    "ODE-U-Net without pre-segmentation": ("phantom_no_channel", {}, {}),  # as an input; its chain starts from noise
    PAPER: ("paper", {}, {"start_step": 300, "num_steps": 10}),
    RESIDUAL: ("phantom_residual", {}, FROM_664),
    f"{RESIDUAL}, 16 channels at full resolution": ("phantom_residual", WIDE, FROM_664),
}
MEMBERS = 8
FIRST_SEED = 9000  # of the phantoms that the networks are measured on
GROUPS = 8  # of the normalizations, as in the ODE-U-Net


class PlainBlock(SecondOrderODEBlock):
    """A residual block z + a(z, e): the ODE block without velocity, of almost as many parameters and operations."""

    def __init__(self, spatial_dims: int, channels: int, embedding_channels: int) -> None:
        super().__init__(spatial_dims, channels, embedding_channels, GROUPS)
        self.velocity, self.acceleration.from_velocity = nn.Identity(), nn.Identity()

    def forward(self, z: torch.Tensor, embedding: torch.Tensor, solver: str, steps: int) -> torch.Tensor:
        scale, shift = (p[:, :, None, None, None] for p in self.film(embedding).chunk(2, dim=1))
        return z + self.acceleration(z, torch.zeros_like(z), scale, shift).to(z.dtype)


class DiffusionUNet(Concatenated):
    """MONAI's network for diffusion as a denoiser that sees image and pre-segmentation beside the state."""

    def __init__(self, num_classes: int, channels: Sequence[int]) -> None:
        network = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=2 * num_classes + 1,
            out_channels=num_classes,
            channels=channels,
            num_res_blocks=1,
            attention_levels=[False] * len(channels),
            norm_num_groups=8,
        )
        super().__init__(network, num_classes)

    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        return [torch.cat([image, presegmentation.to(image.dtype)], dim=1)]


def make_pair(name: str, parser: ConfigParser) -> PDDDPM:
    """Return the configured pair with the bundle's trained segmenter and a new denoiser."""
    parser["network_def::segmenter"] = common.load_pair(common.read_bundle(common.PHANTOM)).segmenter
    if name == "DiffusionModelUNet":
        definition = parser["network_def::denoiser"]
        parser["network_def::denoiser"] = DiffusionUNet(definition["num_classes"], definition["channels"])
    pair: PDDDPM = parser.get_parsed_content("network_def")
    for parent in list(pair.denoiser.modules()) if name.startswith("plain blocks") else ():
        for key, block in parent.named_children():
            if isinstance(block, SecondOrderODEBlock):
                width = block.film.out_features // 2
                setattr(parent, key, PlainBlock(3, width, block.film.in_features))
    return pair.to(parser["device"])


def quality(
    pair: PDDDPM, parser: ConfigParser, phantoms: Sequence[Phantom], device: torch.device, average_members: bool = False
) -> dict[str, float]:
    """Return the divergence of the answer and the GED of the members, means over the phantoms.

    The answer is the average of the first predictions, or of the members, as the paper has it.
    """
    chain = common.make_inferer(parser).chain
    found = []
    for number, phantom in enumerate(phantoms):
        rng, generator = np.random.default_rng(number), torch.Generator().manual_seed(number)
        image = torch.as_tensor((phantom.image - phantom.image.mean()) / phantom.image.std())[None, None].to(device)
        noise = torch.randn(MEMBERS, len(CLASSES), *image.shape[2:], generator=generator).to(device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            presegmentation = pair.prepare_presegmentation(pair.segment(image))
            first, members = pair.reverse(presegmentation, pair.encode(image, presegmentation), [noise], chain)
        region = near_border(phantom)
        answer = (members if average_members else first).mean(0).cpu().numpy()
        p, q = (x[:, region].clip(1e-6) for x in (phantom.probability, answer))
        annotations = np.stack([phantom.draw_annotation(rng) for _ in range(MEMBERS)])
        maps = [members.argmax(1).cpu(), torch.as_tensor(annotations)]
        ged = generalized_energy_distance(maps[0], maps[1], len(CLASSES))
        found.append({"divergence": float((p * np.log(p / q)).sum(0).mean()), "ged": ged})
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}


def train_and_measure(name: str, batches: int, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one network for a number of batches and measure it; the seconds are those of the training."""
    device = torch.device(args.device)
    of_study, changes, chain = NETWORKS[name]
    settings = read_study()["networks"][of_study].get("settings", {}) | changes
    parser = common.read_bundle(common.PHANTOM, at_inference({"settings": settings}) | chain, args.device)
    training = ConfigParser()
    training.read_config(common.PHANTOM / "configs" / "train.json")
    for key, value in {**settings, "corruption": None}.items():
        training[key] = value
    torch.manual_seed(seed)
    pair = make_pair(name, parser)
    source, budget = Batches(device, parser["roi_size"]), Budget(batches=batches, batch_size=args.batch_size)
    call, loss = (training.get_parsed_content(key) for key in ("train::inferer", "loss"))
    clock = time.process_time if device.type == "cpu" else time.monotonic  # other programs do not count
    begin = clock()
    average = train_denoiser(pair, call, loss, source, budget, args.work / f"{name}_{batches}_{seed}.state")[-1]
    seconds = clock() - begin
    phantoms = [make_phantom_scan(seed=FIRST_SEED + number) for number in range(args.scans)]
    found = quality(pair.with_denoiser(average), parser, phantoms, device, average_members=name == PAPER)
    parameters = sum(p.numel() for p in pair.denoiser.parameters())
    row = {"network": name, "batches": batches, "seed": seed, "machine": common.machine(args.device)}
    return row | {"seconds": seconds, "parameters": parameters, **found}


def _line_of(row: Mapping[str, Any]) -> tuple[str, int, str]:
    """Return network, seed and device of a training, which share a line of the figure."""
    return row["network"], row["seed"], row["machine"]["device"]


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw both measures over batches and over seconds, a line for each network and seed."""
    titles = {"divergence": "KL divergence, nats", "ged": "GED"}
    with common.figure(path, 2, 2, figsize=(10, 8), sharey="row") as (figure, axes):
        for axis, (metric, x) in zip(axes.flat, itertools.product(titles, ("batches", "seconds")), strict=True):
            for (name, seed, _), trainings in itertools.groupby(sorted(rows, key=_line_of), key=_line_of):
                line = sorted(trainings, key=lambda row: row["batches"])
                color, label = f"C{list(NETWORKS).index(name)}", name if seed == 0 else None
                axis.plot([one[x] for one in line], [one[metric] for one in line], "o-", color=color, label=label)
            axis.set(xlabel=f"{x} of training", ylabel=titles[metric], xscale="log", yscale="log")
            axis.grid(alpha=0.3)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True))  # one entry where two devices have the same network
        figure.legend(named.values(), named, loc="outside lower center", ncols=2)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure and write table, numbers and figure."""
    friendly_errors(force=True)
    options = common.script_options(__file__, __doc__, "convergence")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options.add_argument("--batches", nargs="+", type=int, default=[200, 400, 800, 1600])
    options.add_argument("--batch_size", type=int, default=16)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--scans", type=int, default=4, help="phantoms to measure on")
    args = options.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    asked = f"{args.batch_size}_{args.scans}"  # what the rows of one table have in common
    for seed, batches, name in itertools.product(range(args.seeds), args.batches, args.networks):
        kept = args.work / f"{name}_{batches}_{seed}_{asked}.json".replace(" ", "_")
        if not kept.is_file():
            common.write_json(kept, train_and_measure(name, batches, seed, args))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in args.work.glob(f"*_{asked}.json")]
    rows = sorted(found, key=lambda row: (list(NETWORKS).index(row["network"]), row["batches"], row["seed"]))
    cells = []
    for (name, batches), trainings in itertools.groupby(rows, key=lambda row: (row["network"], row["batches"])):
        group = list(trainings)
        values = {key: np.array([row[key] for row in group]) for key in ("divergence", "ged", "seconds")}
        spread = [f"{v.mean():.4f} ({v.min():.4f} to {v.max():.4f})" for v in (values["divergence"], values["ged"])]
        size, device = f"{group[0]['parameters']:,}", group[0]["machine"]["device"]
        cells.append([name, size, batches, len(group), *spread, f"{values['seconds'].mean():.0f}", device])
    head = ["denoiser", "parameters", "batches", "trainings", "KL divergence, nats", "GED", "s", "on"]
    text = common.table(head, cells) + (
        f"\n\nBatches of {args.batch_size}; mean and range of the trainings, each measured on {args.scans} phantoms."
    )
    content = {**common.stamp(), "batch_size": args.batch_size, "rows": rows}
    common.write_results(args.output_dir, "results_convergence", content, text)
    draw(rows, args.output_dir / "results_convergence.png")


if __name__ == "__main__":
    main()
