"""One training call of the denoiser: propose, noise, denoise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from monai.inferers import Inferer
from monai.networks.utils import one_hot

from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.schedulers import forward_process, regression_target, start_state

from .autocast import autocast

TRAINING_PROCESSES = ("ddpm", "presegmentation", "recycled", "residual")


class Denoised(NamedTuple):
    """A denoiser's output, (B, K, ...), and what it should have been when it regresses x_0's noise or v."""

    output: torch.Tensor
    target: torch.Tensor


class DenoisingInferer(Inferer):
    """Make a noisy state for each case of a batch and let the denoiser predict.

    The processes differ in what is noised: ``ddpm`` the truth (PD-DDPM as published), ``presegmentation`` the
    proposal, ``recycled`` the proposal at the first step and the network's own first prediction at later ones (Fu et
    al. 2023, with the segmenter in place of the first pass), ``residual`` a blend of both (Resfusion). The target is
    always the truth.

    Args:
        time_steps: descending indices that t is drawn from, the first being the start of the chain.
        training_process: ``"ddpm"``, ``"presegmentation"``, ``"recycled"`` or ``"residual"``.
        truth_share: share of cases, 0 to 1, that are noised from the truth whatever the process.
        corruption: makes the proposals of the training cases as imperfect as those of new cases.
        precision: of the networks' arithmetic.

    Raises:
        ValueError: when an argument is not one of those allowed.
    """

    def __init__(
        self,
        time_steps: Sequence[int],
        training_process: str = "ddpm",
        truth_share: float = 0.0,
        corruption: Callable[[torch.Tensor], torch.Tensor] | None = None,
        precision: str = "bfloat16",
    ) -> None:
        super().__init__()
        if not time_steps:
            raise ValueError("time_steps: an empty list was found, at least one time step is needed for training")
        if not 0 <= truth_share <= 1:
            raise ValueError(f"truth_share: {truth_share} was found, a number from 0 to 1 is expected")
        self.process = forward_process(training_process)
        self.training_process = training_process
        self.time_steps = torch.as_tensor(list(time_steps))
        self.truth_share = truth_share
        self.corruption = corruption
        self.precision = precision

    def __call__(
        self,
        inputs: torch.Tensor,
        network: PDDDPM,
        label: torch.Tensor,
        proposal: torch.Tensor | None = None,
    ) -> Denoised:
        """Return the denoiser's output and target for a batch.

        Args:
            inputs: images, (B, C, ...).
            network: segmenter and denoiser.
            label: true label maps, (B, 1, ...).
            proposal: label maps proposed by a segmenter that never saw these cases, (B, 1, ...) (cross-fitting); the
                network's own segmenter proposes when they are not given.
        """
        network = getattr(network, "module", network)  # unwrap DistributedDataParallel
        inputs = torch.as_tensor(inputs)
        num_classes = network.denoiser.num_classes
        truth = one_hot(torch.as_tensor(label), num_classes)
        with torch.no_grad(), autocast(inputs.device, self.precision):
            if proposal is None:
                proposed = network.propose(network.segment(inputs))
            else:
                proposed = one_hot(torch.as_tensor(proposal), num_classes)
            if self.corruption is not None:
                proposed = self.corruption(proposed)
        x_0, x_pre = network.state(truth), network.state(proposed)
        steps = self.time_steps.to(inputs.device)
        t = steps[torch.randint(len(steps), (len(inputs),), device=inputs.device)]
        if self.training_process == "recycled":
            # half of the cases practise the start itself, as every chain begins with it
            t = torch.where(torch.rand(len(t), device=t.device) < 0.5, steps[0], t)
        with autocast(inputs.device, self.precision):
            features = network.encode(inputs, proposed)
            abar_t = _per_case(network.abar[t], x_0)
            source = self._source(network, x_0, x_pre, t, features)
            x_t = self.process.noisy(source, x_pre, abar_t, torch.randn_like(x_0))
            output = network.denoise(x_t, t, features)
        return Denoised(output.float(), regression_target(x_0, x_t, abar_t, network.prediction))

    def _source(
        self, network: PDDDPM, x_0: torch.Tensor, x_pre: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor]
    ) -> torch.Tensor:
        """Return the clean state that is noised, per case."""
        if self.training_process in ("ddpm", "residual"):
            return x_0
        source = x_pre
        if self.training_process == "recycled":
            first = int(self.time_steps[0])
            with torch.no_grad():
                x_start = start_state(x_pre, torch.randn_like(x_pre), network.abar[first])
                output = network.denoise(x_start, torch.full_like(t[:1], first), [f.detach() for f in features])
                own = network.x0(output, x_start, first)
            source = torch.where(_per_case(t, x_pre) == first, x_pre, own)
        from_truth = torch.rand(len(t), device=t.device) < self.truth_share
        return torch.where(_per_case(from_truth, x_pre), x_0, source)


def _per_case(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *([1] * (like.dim() - 1)))
