"""One training call of the denoiser: propose, noise, denoise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.networks.utils import one_hot
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_pdddpm.schedulers import check_steps, forward_process, regression_target, start_state
from monai_pdddpm.utils.errors import UserError

from .autocast import autocast, check_precision

TRAINING_PROCESSES = ("ddpm", "presegmentation", "recycled", "residual")


class Denoised(NamedTuple):
    """A denoiser's output, (B, K, ...), and what it should have been when it regresses x_0's noise or v."""

    output: torch.Tensor
    target: torch.Tensor


class DenoisingInferer(Inferer):
    """Make a noisy state for each case of a batch and let the denoiser predict.

    The processes differ in what is noised: ``ddpm`` the truth (PD-DDPM as published), ``presegmentation`` the
    presegmentation, ``recycled`` the presegmentation at the first step and the network's own first prediction at later ones (Fu et
    al. 2023, with the segmenter in place of the first pass), ``residual`` a blend of both (Resfusion). The target is
    always the truth.

    Args:
        time_steps: descending indices that t is drawn from, the first being the start of the chain.
        training_process: ``"ddpm"``, ``"presegmentation"``, ``"recycled"`` or ``"residual"``.
        truth_share: share of cases, 0 to 1, that ``presegmentation`` and ``recycled`` noise from the truth.
        corruption: makes the presegmentations of the training cases as imperfect as those of new cases.
        solver_steps: of the ODE blocks, the network's own when 0. Of several, each batch draws one, so that the network
            learns to bear all of them.
        precision: of the networks' arithmetic.

    Raises:
        UserError: when an argument is not one of those allowed; on a call, when time_steps or labels do not fit the
            network.
    """

    def __init__(
        self,
        time_steps: Sequence[int],
        training_process: str = "ddpm",
        truth_share: float = 0.0,
        corruption: Callable[[torch.Tensor], torch.Tensor] | None = None,
        solver_steps: Sequence[int] = (0,),
        precision: str = "bfloat16",
    ) -> None:
        super().__init__()
        if not solver_steps or any(not isinstance(n, int) or n < 0 for n in solver_steps):
            raise UserError(
                f"solver_steps: found {list(solver_steps)}, expected whole numbers of at least 0, one or more; fix "
                "the inferer in the configuration"
            )
        if not time_steps:
            raise UserError("time_steps: found an empty list, expected at least one for training; raise start_step")
        if not 0 <= truth_share <= 1:
            raise UserError(f"truth_share: found {truth_share!r}, expected a number from 0 to 1; fix --truth_share")
        self.process = forward_process(training_process)
        self.training_process = training_process
        self.time_steps = torch.as_tensor(list(time_steps))
        self.truth_share = truth_share
        self.corruption = corruption
        self.solver_steps = tuple(solver_steps)
        self.precision = check_precision(precision)

    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        network: nn.Module,
        label: torch.Tensor,
        presegmentation: torch.Tensor | None = None,
        seeds: torch.Tensor | None = None,
    ) -> Denoised:
        """Return the denoiser's output and target for a batch.

        Args:
            inputs: images, (B, C, ...).
            network: segmenter and denoiser, :class:`monai_pdddpm.networks.PDDDPM`, or DistributedDataParallel around
                an :class:`InForward` of it.
            label: true label maps, (B, 1, ...).
            presegmentation: label maps proposed by a segmenter that never saw these cases, (B, 1, ...) (cross-fitting); the
                network's own segmenter proposes when they are not given.
            seeds: one for each case, (B,). All that is random for a case then depends on its seed alone, not on the
                batch that it is in, nor on the process. Otherwise torch's generators go on as they are.

        Raises:
            UserError: when the network is wrapped in such a way that gradients would not be averaged.
        """
        if not isinstance(network, DistributedDataParallel):
            return self._denoised(getattr(network, "module", network), inputs, label, presegmentation, seeds)
        if not isinstance(network.module, InForward):
            raise UserError(
                "network: found DistributedDataParallel around the pair itself, whose parts would be trained without "
                "the other processes; wrap it with monai_pdddpm.bundle.distributed_network"
            )
        return network(self._denoised, inputs, label, presegmentation, seeds)

    def _denoised(
        self,
        pair: Any,
        inputs: torch.Tensor,
        label: torch.Tensor,
        presegmentation: torch.Tensor | None,
        seeds: torch.Tensor | None,
    ) -> Denoised:
        check_steps(self.time_steps.tolist(), len(pair.abar))
        inputs = plain(inputs)
        num_classes = pair.denoiser.num_classes
        truth = _one_hot(label, num_classes, "label")
        with torch.no_grad(), autocast(inputs.device, self.precision):
            if presegmentation is None:
                proposed = pair.propose(pair.segment(inputs))
            else:
                proposed = _one_hot(presegmentation, num_classes, "presegmentation")
            drawn = self._draw(proposed) if seeds is None else self._draw_by_case(proposed, seeds)
        solver_steps = self.solver_steps[0]
        if len(self.solver_steps) > 1:
            solver_steps = self.solver_steps[int(torch.randint(len(self.solver_steps), ()))]
        x_0, x_pre = pair.state(truth), pair.state(drawn.proposed)
        with autocast(inputs.device, self.precision):
            features = pair.encode(inputs, drawn.proposed)
        abar_t = _per_case(pair.abar[drawn.t], x_0)
        source = self._source(pair, x_0, x_pre, drawn, features)
        x_t = self.process.noisy(source, x_pre, abar_t, drawn.noise)
        with autocast(inputs.device, self.precision):
            output = pair.denoise(x_t, drawn.t, features, solver_steps=solver_steps)
        return Denoised(output.float(), regression_target(x_0, x_t, abar_t, pair.prediction))

    def _draw_by_case(self, proposed: torch.Tensor, seeds: torch.Tensor) -> _Drawn:
        """Draw for each case from its own seed; torch's generators are left wherever the last one leads."""
        cases = []
        for case, seed in zip(proposed.split(1), seeds.tolist(), strict=True):
            torch.manual_seed(seed)
            cases.append(self._draw(case))
        return _Drawn(*map(torch.cat, zip(*cases, strict=True)))

    def _draw(self, proposed: torch.Tensor) -> _Drawn:
        """Draw all that is random for a batch of presegmentations, (B, K, ...)."""
        if self.corruption is not None:
            proposed = self.corruption(proposed)
        count, device, steps = len(proposed), proposed.device, self.time_steps.to(proposed.device)
        start_noise, from_truth = proposed[:0].float(), torch.zeros(count, dtype=torch.bool, device=device)
        t = steps[torch.randint(len(steps), (count,), device=device)]
        if self.training_process == "recycled":
            # half of the cases practise the start itself, as every chain begins with it
            t = torch.where(torch.rand(count, device=device) < 0.5, steps[0], t)
            start_noise = torch.randn_like(proposed, dtype=torch.float32)
        if self.training_process in ("recycled", "presegmentation"):
            from_truth = torch.rand(count, device=device) < self.truth_share
        noise = torch.randn_like(proposed, dtype=torch.float32)
        return _Drawn(proposed, t, start_noise, from_truth, noise)

    def _source(
        self, network: Any, x_0: torch.Tensor, x_pre: torch.Tensor, drawn: _Drawn, features: list[torch.Tensor]
    ) -> torch.Tensor:
        """Return the clean state that is noised, per case."""
        if self.training_process in ("ddpm", "residual"):
            return x_0
        source = x_pre
        if self.training_process == "recycled":
            first = int(self.time_steps[0])
            x_start = start_state(x_pre, drawn.start_noise, network.abar[first])
            # an autocast context of its own: PyTorch 2.6 to 2.9 keeps the weights that it casts under no_grad until
            # the context ends, and a training step within it would leave these weights without a gradient
            with torch.no_grad(), autocast(x_pre.device, self.precision):
                output = network.denoise(x_start, torch.full_like(drawn.t[:1], first), [f.detach() for f in features])
                own = network.x0(output, x_start, first)
            source = torch.where(_per_case(drawn.t, x_pre) == first, x_pre, own)
        return torch.where(_per_case(drawn.from_truth, x_pre), x_0, source)


class _Drawn(NamedTuple):
    """What is random in a training call: presegmentations (B, K, ...), times (B,), fields (B, K, ...), truth instead (B,)."""

    proposed: torch.Tensor
    t: torch.Tensor
    start_noise: torch.Tensor
    from_truth: torch.Tensor
    noise: torch.Tensor


class InForward(nn.Module):
    """Runs work on a network within ``forward``, where DistributedDataParallel prepares the averaging of gradients.

    Args:
        network: whose parts the work calls.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, work: Callable[..., Any], *args: Any) -> Any:
        """Return ``work(network, *args)``."""
        return work(self.network, *args)


def plain(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor without MONAI's metadata, which each operation of a network would copy."""
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
