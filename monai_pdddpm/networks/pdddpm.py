"""The pair of segmenter and denoiser as one network with one checkpoint (PD-DDPM, Guo et al. 2022)."""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from monai_pdddpm.schedulers import (
    PREDICTIONS,
    Chain,
    chain_step,
    check_steps,
    cumulative_schedule,
    decode_probabilities,
    encode_labels,
    is_residual,
    predicted_x0,
    start_state,
)
from monai_pdddpm.utils.checks import check_choice
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.probabilities import likeliest_class

from .protocols import Denoiser


class PDDDPM(nn.Module):
    """A frozen segmenter and a denoiser that draws segmentations from the noised pre-segmentation.

    ``forward(image)`` is the whole method for one member, one tensor in and one tensor out, so that MONAI's tools can
    check and export it. The inferer calls the parts, which TorchScript exports contain too. The segmenter never leaves
    evaluation mode.

    Args:
        segmenter: image -> logits (B, K, ...), any network whose output has the image's size.
        denoiser: a :class:`monai_pdddpm.networks.protocols.Denoiser`, such as :class:`ODEUNet`.
        time_steps: descending time indices of the chain in ``forward``; empty returns the pre-segmentation.
        num_train_timesteps: T.
        schedule: name of a noise schedule of MONAI.
        prediction: output of the denoiser: ``"x0"`` (as logits), ``"eps"`` or ``"v"``. The last two contain the noise
            of every voxel, which a denoiser that takes the state at half the resolution (``stride`` 2) cannot return.
        label_range: states of an absent and of a present class. A narrower range lowers the noise at which a region is
            decided.
        training_process: process that the denoiser was trained with, see
            :func:`monai_pdddpm.schedulers.noisy_state`.

    Raises:
        UserError: if an argument is out of range, or ``prediction`` needs a denoiser of stride 1.
    """

    abar: torch.Tensor
    time_steps: list[int]  # TorchScript needs the type of a list that may be empty

    def __init__(
        self,
        segmenter: nn.Module,
        denoiser: Denoiser,
        time_steps: Sequence[int] = (899, 674, 449, 225, 0),
        num_train_timesteps: int = 1000,
        schedule: str = "cosine",
        prediction: str = "x0",
        label_range: Sequence[float] = (-1.0, 1.0),
        training_process: str = "ddpm",
    ) -> None:
        super().__init__()
        check_choice("prediction", prediction, PREDICTIONS)
        if prediction != "x0" and getattr(denoiser, "stride", 1) != 1:
            raise UserError(
                f"prediction: found '{prediction}', which a denoiser of stride 2 cannot return, expected 'x0', or "
                "stride 1; fix network_def"
            )
        ends = label_range if isinstance(label_range, Sequence) else ()
        if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or not ends[0] < ends[1]:
            raise UserError(f"label_range: found {label_range}, expected two rising numbers; fix network_def")
        self.segmenter = segmenter.requires_grad_(False).eval()
        self.denoiser = denoiser
        self.num_classes = int(denoiser.num_classes)
        self.divisor = int(denoiser.divisor)
        self.time_steps = check_steps(time_steps, num_train_timesteps)
        self.prediction = prediction
        self.low, self.high = float(label_range[0]), float(label_range[1])
        self.residual = is_residual(training_process)
        self.register_buffer("abar", cumulative_schedule(num_train_timesteps, schedule), persistent=False)

    def with_denoiser(self, denoiser: nn.Module) -> "PDDDPM":
        """Return the same pair with another denoiser, such as its moving average; the segmenter is shared."""
        twin = copy.copy(self)
        twin._modules = cast(dict[str, nn.Module | None], self._modules | {"denoiser": denoiser})
        return twin

    def train(self, mode: bool = True) -> "PDDDPM":
        """Set the mode of the denoiser; the segmenter stays in evaluation mode."""
        super().train(mode)
        self.segmenter.eval()
        return self

    @torch.jit.export
    def segment(self, image: torch.Tensor) -> torch.Tensor:
        """Return the segmenter's probabilities, (B, K, ...) float32, for an image, (B, C, ...)."""
        return self.segmenter(image).float().softmax(dim=1)

    @torch.jit.export
    def prepare_presegmentation(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return the pre-segmentation for the chain, (B, K, ...): the likeliest class of the probabilities, one-hot."""
        index = likeliest_class(probabilities, dim=1, keepdim=True)
        return torch.zeros_like(probabilities).scatter_(1, index, 1.0)

    @torch.jit.export
    def state(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return probabilities or one-hot labels as a clean state, in ``label_range``."""
        return encode_labels(probabilities, self.low, self.high)

    @torch.jit.export
    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        """Return the denoiser's features of image and pre-segmentation, which serve all steps and members."""
        return self.denoiser.encode(image, self.state(presegmentation))

    @torch.jit.export
    def start(self, presegmentation: torch.Tensor, noise: torch.Tensor, t: int) -> torch.Tensor:
        """Return sqrt(abar_t) x_pre + sqrt(1 - abar_t) noise, the state in which the chain starts."""
        return start_state(self.state(presegmentation), noise, self.abar[t])

    @torch.jit.export
    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return the denoiser's output for x_t, (B, K, ...), and time indices t, (B,) or (1,)."""
        return self.denoiser.denoise(x_t, t, features, solver, solver_steps)

    @torch.jit.export
    def predict(
        self, x_t: torch.Tensor, t: int, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return the predicted clean state at time t, (B, K, ...) float32, within ``label_range``."""
        output = self.denoise(x_t, torch.full([1], t, device=x_t.device), features, solver, solver_steps)
        return predicted_x0(output, x_t, self.abar[t], self.prediction, self.low, self.high)

    @torch.jit.export
    def reverse(
        self, presegmentation: torch.Tensor, features: list[torch.Tensor], noise: list[torch.Tensor], chain: Chain
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the reverse chain from the noised pre-segmentation, the only loop over time steps in the package.

        The first prediction is the posterior mean given the start; its average over members is the answer. The end of
        the chain is a member.

        Args:
            presegmentation: (B, K, ...) or (1, K, ...), probabilities or one-hot.
            features: features of the condition, of batch size B or 1.
            noise: field of the start, (B, K, ...), and for a stochastic rule one more per reverse step.
            chain: time steps, at least one, with the rule.

        Returns:
            Probabilities of the predictions at the first and at the last time step, each (B, K, ...) float32.

        Reference: Guo et al. 2022 (PD-DDPM).
        """
        x_pre = self.state(presegmentation)
        x_t = self.start(presegmentation, noise[0], chain.time_steps[0])
        x_0 = first = x_t
        for i, t in enumerate(chain.time_steps):
            x_0 = self.predict(x_t, t, features, chain.solver, chain.solver_steps[i])
            if i == 0:
                first = x_0
            if i + 1 < len(chain.time_steps):
                abar_prev = self.abar[chain.time_steps[i + 1]]
                step_noise = noise[i + 1] if len(noise) > 1 else None
                x_t = chain_step(x_t, x_0, x_pre, self.abar[t], abar_prev, step_noise, chain, self.residual)
        low, high = self.low, self.high
        return decode_probabilities(first, low, high), decode_probabilities(x_0, low, high)

    def forward(self, image: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Return one member: segment, noise, and reverse along ``time_steps`` by DDIM with eta 0.

        Args:
            image: (B, C, ...), of a size that both networks take.
            noise: (B, K, ...), standard normal; drawn if not given.

        Returns:
            Probabilities, (B, K, ...), that sum to 1 over the classes.
        """
        probabilities = self.segment(image)
        if len(self.time_steps) == 0:
            return probabilities
        presegmentation = self.prepare_presegmentation(probabilities)
        start_noise = torch.randn_like(probabilities) if noise is None else noise
        chain = Chain(self.time_steps, [0] * len(self.time_steps))
        return self.reverse(presegmentation, self.encode(image, presegmentation), [start_noise], chain)[1]


class NoSegmenter(nn.Module):
    """A segmenter without weights, which cannot segment."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Raise an error.

        Raises:
            UserError: always.
        """
        raise UserError(
            "presegmentation_dir: found none, expected the folder of the pre-segmentations, because this bundle has no "
            "segmenter; give --presegmentation_dir"
        )
