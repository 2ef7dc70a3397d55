"""Contenders of the study: functions from an image (1, C, ...) to mean (K, ...) and members (N, K, ...).

Some also take a pre-segmentation (1, K, ...).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from scipy.special import ndtr
from torch import nn
from torch.nn import functional as F

from benchmarks import common
from benchmarks.speed.rivals import segmenter_answers, with_dropout
from benchmarks.trust import training
from monai_pdddpm.data.phantom_distribution import smooth_field
from monai_pdddpm.networks import PDDDPM

Draw = Callable[..., tuple[torch.Tensor, torch.Tensor]]
MEMBERS = 8


def contender(row: Mapping[str, Any], study: Mapping[str, Any], args: argparse.Namespace) -> Draw:
    """Return the function that draws the members of a row of the study; without networks, the shipped bundle."""
    kind, names = row.get("kind", "ensemble"), row["networks"]
    torch.manual_seed(0)  # for dropout
    if kind == "ensemble":
        own = training.at_inference(study["networks"][training.copies_of(study)[names[-1]]]) if names else {}
        settings = {"members": MEMBERS} | own | row.get("settings", {})
        parser = common.read_bundle(common.HIPPOCAMPUS, settings, args.device)
        if not names:
            return ensemble(parser, common.load_pair(parser))
        pair = parser.get_parsed_content("network_def").to(args.device).eval()
        *segmenters, denoiser = names  # no segmenter for a chain without a pre-segmentation
        for name in segmenters:
            pair.segmenter = training.load_segmenter(study, name, args)
        training.load_denoiser(pair, denoiser, args.work)
        return ensemble(parser, pair.eval(), row.get("answer", "pred"))
    parser = common.read_bundle(common.HIPPOCAMPUS, device=args.device)
    segmenters = [training.load_segmenter(study, name, args) for name in names]
    if kind == "stochastic":
        return stochastic(parser, segmenters[0], MEMBERS)
    pairs = [copy.deepcopy(common.load_pair(parser)) for _ in names]  # a parser builds a network once
    for pair, segmenter in zip(pairs, segmenters, strict=True):
        pair.segmenter = segmenter.eval()
    if kind == "field":
        return random_field(parser, pairs[0], row["length_mm"], MEMBERS)
    if kind == "dropout":
        return passes(parser, [with_dropout(pairs[0])] * row["passes"])
    return passes(parser, pairs, row.get("flips", [[]]))


def ensemble(parser: ConfigParser, network: PDDDPM, answer: str = "pred") -> Draw:
    """Draw the method's members; `answer` names the output's part that is the mean, such as `member_mean`."""
    parser["inferer::return_members"] = True
    inferer = common.make_inferer(parser)

    def draw(image: torch.Tensor, presegmentation: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        parts, _ = common.run_inferer(inferer, network, image, presegmentation)
        return parts[answer], parts["members"]

    return draw


def passes(parser: ConfigParser, networks: Sequence[PDDDPM], flips: Sequence[Sequence[int]] = ((),)) -> Draw:
    """Run segmenters, each once for every flip; the answers are the members."""
    config = common.make_inferer(parser).config

    def draw(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stacked = torch.stack(list(segmenter_answers(networks, image, config, flips)))
        return stacked.mean(0), stacked

    return draw


def field_labels(probability: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """Threshold a standard normal field, (...), such that each class has its probability, (K, ...)."""
    uniform = torch.as_tensor(ndtr(field.numpy()))
    return (uniform > probability.double().cumsum(0)[:-1]).sum(0)


def random_field(parser: ConfigParser, network: PDDDPM, length_mm: float, members: int) -> Draw:
    """Draw label maps with the segmenter's probabilities as marginals and one correlation length."""
    answer = passes(parser, [network])

    def draw(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = answer(image)[0].cpu()
        rng, spacing = np.random.default_rng(0), parser["spacing"]
        fields = [torch.as_tensor(smooth_field(mean.shape[1:], spacing, length_mm, rng)) for _ in range(members)]
        labels = torch.stack([field_labels(mean, field) for field in fields])
        return mean, F.one_hot(labels, len(mean)).movedim(-1, 1).float()

    return draw


def sample_logits(
    parameters: torch.Tensor, num_classes: int, samples: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw S logits, (S, B, K, ...), from a low-rank Gaussian.

    `parameters` are (B, K (R + 2), ...): mean, log of the diagonal variance, R columns of the covariance factor.

    Reference: Monteiro et al. 2020 (arXiv:2006.06015), eq. 6.
    """
    mean, log_variance, *columns = parameters.float().split(num_classes, dim=1)
    factor = torch.stack(columns)  # (R, B, K, ...)
    low = torch.randn((samples, len(columns), len(mean)), generator=generator, device=mean.device)
    white = torch.randn((samples, *mean.shape), generator=generator, device=mean.device)
    shared = torch.einsum("srb,rb...->sb...", low, factor)
    return mean + shared + (log_variance.clamp(max=5) / 2).exp() * white


class StochasticLoss(nn.Module):
    """The Monte Carlo likelihood of a stochastic segmentation network, per voxel.

    Reference: Monteiro et al. 2020 (arXiv:2006.06015), eq. 5.
    """

    def __init__(self, num_classes: int, samples: int = 8) -> None:
        super().__init__()
        self.num_classes, self.samples = num_classes, samples

    def forward(self, parameters: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the loss of parameters (B, K (R + 2), ...) and true label maps (B, 1, ...)."""
        logits = sample_logits(parameters, self.num_classes, self.samples)
        truth = label[:, 0].long().expand(self.samples, *label[:, 0].shape)
        nll = F.cross_entropy(logits.flatten(0, 1), truth.flatten(0, 1), reduction="none")
        by_sample = nll.unflatten(0, (self.samples, -1)).flatten(2).sum(2)
        likelihood = torch.logsumexp(-by_sample, dim=0) - np.log(self.samples)
        return -likelihood.mean() / label[0, 0].numel()


def stochastic(parser: ConfigParser, network: nn.Module, members: int) -> Draw:
    """Draw members of a stochastic segmentation network; windows share the random numbers."""
    config = common.make_inferer(parser).config
    inferer = SlidingWindowInferer(config.roi_size, overlap=config.overlap, mode="gaussian")
    classes = len(parser["labels"])

    def draw(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            parameters = inferer(image, network)
        logits = sample_logits(parameters, classes, members, torch.Generator(image.device).manual_seed(0))
        drawn = logits[:, 0].softmax(1)
        return drawn.mean(0), drawn

    return draw
