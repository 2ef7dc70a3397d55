"""One training call of the denoiser: segment, noise, denoise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.networks.utils import one_hot
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_pdddpm.networks import PDDDPM
from monai_pdddpm.schedulers import (
    check_residual_start,
    check_steps,
    is_residual,
    noisy_state,
    regression_target,
    start_state,
)
from monai_pdddpm.utils.checks import check_choice, check_list, check_number, check_range
from monai_pdddpm.utils.errors import UserError

from .autocast import PRECISIONS, autocast

Corruption: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class Denoised(NamedTuple):
    """A denoiser's output, (B, K, ...), and its regression target of the same shape."""

    output: torch.Tensor
    target: torch.Tensor


class DenoisingInferer(Inferer):
    """Make a noisy state for each case of a batch and call the denoiser.

    The processes differ in the clean state that is noised: ``ddpm`` uses the truth (PD-DDPM as published),
    ``presegmentation`` the pre-segmentation, ``recycled`` the pre-segmentation at the first step and the network's own
    first prediction at later ones (Fu et al. 2023, with the segmenter in place of the first pass), ``residual`` a blend
    of truth and pre-segmentation (Resfusion). The target is always the truth.

    Args:
        time_steps: descending indices that t is drawn from; the first is the start of the chain.
        training_process: ``"ddpm"``, ``"presegmentation"``, ``"recycled"`` or ``"residual"``.
        corruption: makes the segmenter's pre-segmentations of the training cases as imperfect as those of new cases;
            pre-segmentations that are given stay as they are.
        solver_steps: solver steps of the ODE blocks, 0 for the network's own; each batch draws one of several, so that
            the trained blocks give the same answer with a finer solver.
        dense_fraction: fraction of cases, 0 to 1, whose place in ``time_steps`` follows Beta(4, 1.2), dense near the
            start of the chain, where large structures are decided; the others are uniform.
        precision: precision of the networks.

    Raises:
        UserError: if an argument is out of range; on a call, if ``time_steps`` or labels do not fit the network.
    """

    def __init__(
        self,
        time_steps: Sequence[int],
        training_process: str = "ddpm",
        corruption: Corruption | None = None,
        solver_steps: Sequence[int] = (0,),
        dense_fraction: float = 0.0,
        precision: str = "bfloat16",
    ) -> None:
        super().__init__()
        for name, values in (("solver_steps", solver_steps), ("time_steps", time_steps)):
            if not check_list(name, values):
                raise UserError(f"{name}: found an empty list, expected at least one number for training; fix {name}")
        self.dense_fraction = check_number("dense_fraction", dense_fraction, 0, 1)
        self.residual = is_residual(training_process)
        self.training_process = training_process
        self.time_steps = torch.as_tensor(check_steps(time_steps))
        self.corruption = corruption
        self.solver_steps = tuple(check_range("solver_steps", n, 0) for n in solver_steps)
        check_choice("precision", precision, PRECISIONS)
        self.precision = precision

    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        network: PDDDPM | DistributedDataParallel,
        label: torch.Tensor,
        presegmentation: torch.Tensor | None = None,
        seeds: torch.Tensor | None = None,
    ) -> Denoised:
        """Return the denoiser's output and target for a batch.

        Args:
            inputs: images, (B, C, ...).
            network: segmenter and denoiser, or DistributedDataParallel around an :class:`InForward` of them.
            label: true label maps, (B, 1, ...); where the class is -1, the pre-segmentation is noised.
            presegmentation: label maps of a segmenter that was not trained on these cases, (B, 1, ...); by default the
                network's own segmenter makes them.
            seeds: one seed per case, (B,). Time index, noise and corruption of a case then depend on its seed alone,
                not on its batch or process. By default torch's global generators are used.

        Raises:
            UserError: if the network is wrapped such that gradients are not averaged.
        """
        if not isinstance(network, DistributedDataParallel):
            return self._denoised(network, inputs, label, presegmentation, seeds)
        if not isinstance(network.module, InForward):
            raise UserError(
                "network: found DistributedDataParallel around the pair itself, whose parts would be trained without "
                "the other processes; wrap it with monai_pdddpm.bundle.distributed_network"
            )
        return network(self._denoised, inputs, label, presegmentation, seeds)

    def _denoised(
        self,
        pair: PDDDPM,
        inputs: torch.Tensor,
        label: torch.Tensor,
        presegmentation: torch.Tensor | None,
        seeds: torch.Tensor | None,
    ) -> Denoised:
        check_steps(self.time_steps.tolist(), len(pair.abar))
        if self.residual:
            check_residual_start(int(self.time_steps[0]), pair.abar)
        inputs = plain(inputs)
        ignored = plain(label) == -1
        truth = _one_hot(plain(label).masked_fill(ignored, 0), pair.num_classes, "label")
        with torch.no_grad(), autocast(inputs.device, self.precision):
            if presegmentation is None:
                start = pair.prepare_presegmentation(pair.segment(inputs))
            else:
                start = _one_hot(presegmentation, pair.num_classes, "presegmentation")
            corruption = self.corruption if presegmentation is None else None
            drawn = self._draw(start, corruption) if seeds is None else self._draw_by_case(start, corruption, seeds)
        if ignored.any():
            truth = torch.where(ignored, drawn.presegmentation.to(truth.dtype), truth)
        solver_steps = self.solver_steps[0]
        if len(self.solver_steps) > 1:
            solver_steps = self.solver_steps[int(torch.randint(len(self.solver_steps), ()))]
        x_0, x_pre = pair.state(truth), pair.state(drawn.presegmentation)
        with autocast(inputs.device, self.precision):
            features = pair.encode(inputs, drawn.presegmentation)
        abar_t = _per_case(pair.abar[drawn.t], x_0)
        source = self._source(pair, x_0, x_pre, drawn, features)
        x_t = noisy_state(source, x_pre, abar_t, drawn.noise, self.residual)
        with autocast(inputs.device, self.precision):
            output = pair.denoise(x_t, drawn.t, features, solver_steps=solver_steps)
        return Denoised(output.float(), regression_target(x_0, x_t, abar_t, pair.prediction))

    def _draw_by_case(
        self, presegmentation: torch.Tensor, corruption: Corruption | None, seeds: torch.Tensor
    ) -> _Drawn:
        """Draw for each case from its own seed; torch's generators stay where the last case leaves them."""
        cases = []
        for case, seed in zip(presegmentation.split(1), seeds.tolist(), strict=True):
            torch.manual_seed(seed)
            cases.append(self._draw(case, corruption))
        return _Drawn(*map(torch.cat, zip(*cases, strict=True)))

    def _draw(self, presegmentation: torch.Tensor, corruption: Corruption | None) -> _Drawn:
        """Draw all random quantities for a batch of pre-segmentations, (B, K, ...)."""
        if corruption is not None:
            presegmentation = corruption(presegmentation)
        count, device = len(presegmentation), presegmentation.device
        steps = self.time_steps.to(device)
        start_noise = presegmentation[:0]
        place = torch.randint(len(steps), (count,), device=device)
        if self.dense_fraction > 0:
            near_start = 1 - torch.distributions.Beta(4.0, 1.2).sample((count,)).to(device)
            dense = torch.rand(count, device=device) < self.dense_fraction
            place = torch.where(dense, (near_start * len(steps)).long(), place)
        t = steps[place]
        if self.training_process == "recycled":
            # half of the cases train the start itself, with which every chain begins
            t = torch.where(torch.rand(count, device=device) < 0.5, steps[0], t)
            start_noise = torch.randn_like(presegmentation, dtype=torch.float32)
        noise = torch.randn_like(presegmentation, dtype=torch.float32)
        return _Drawn(presegmentation, t, start_noise, noise)

    def _source(
        self, network: PDDDPM, x_0: torch.Tensor, x_pre: torch.Tensor, drawn: _Drawn, features: list[torch.Tensor]
    ) -> torch.Tensor:
        """Return the clean state that is noised, per case."""
        if self.training_process in ("ddpm", "residual"):
            return x_0
        if self.training_process == "presegmentation":
            return x_pre
        first = int(self.time_steps[0])
        x_start = start_state(x_pre, drawn.start_noise, network.abar[first])
        # a separate autocast context: PyTorch 2.6 to 2.9 keeps the weights that it casts under no_grad until the
        # context ends, and a training step inside it would leave these weights without a gradient
        with torch.no_grad(), autocast(x_pre.device, self.precision):
            own = network.predict(x_start, first, [f.detach() for f in features])
        return torch.where(_per_case(drawn.t, x_pre) == first, x_pre, own)


class _Drawn(NamedTuple):
    """Random quantities of a training call, with B cases."""

    presegmentation: torch.Tensor  # (B, K, ...)
    t: torch.Tensor  # (B,)
    start_noise: torch.Tensor  # (B, K, ...), or empty
    noise: torch.Tensor  # (B, K, ...)


class InForward(nn.Module):
    """Call a function of a network within ``forward``, where DistributedDataParallel prepares the gradients.

    Args:
        network: network whose parts the function calls.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, work: Callable[..., Any], *args: Any) -> Any:
        """Return ``work(network, *args)``."""
        return work(self.network, *args)


def plain(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor without MONAI's metadata, which every operation of a network would copy."""
    return x.as_tensor() if isinstance(x, MetaTensor) else x


def _one_hot(label: torch.Tensor, num_classes: int, name: str) -> torch.Tensor:
    low, high = (float(value) for value in plain(label).aminmax())
    if not (low >= 0 and high < num_classes):
        raise UserError(
            f"{name}: found values from {low:g} to {high:g}, expected 0 to {num_classes - 1}; fix 'labels' in the "
            f"configuration or the {name} maps"
        )
    return one_hot(plain(label), num_classes)


def _per_case(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *([1] * (like.dim() - 1)))
