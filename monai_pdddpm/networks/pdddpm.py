"""The pair of segmenter and denoiser as one network with one checkpoint (PD-DDPM, Guo et al. 2022)."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from monai_pdddpm.metrics.uncertainty import likeliest_class
from monai_pdddpm.schedulers import PREDICTIONS, check_steps, cumulative_schedule
from monai_pdddpm.schedulers.predictions import decode_probabilities, encode_labels, predicted_x0
from monai_pdddpm.schedulers.rules import ddim_step
from monai_pdddpm.schedulers.schedule import start_state

PRESEGMENTATIONS = ("hard", "soft")


class PDDDPM(nn.Module):
    """A frozen segmenter that proposes and a denoiser that draws segmentations from the noised presegmentation.

    ``forward(image)`` is the whole method with fixed steps for one member, one tensor in and one tensor out, so that
    MONAI's tools can check and export it. The inferer uses the parts: :meth:`segment`, :meth:`start`, :meth:`encode`,
    :meth:`denoise` and :meth:`x0`; TorchScript exports carry them too. The segmenter never leaves evaluation mode.

    Args:
        segmenter: image -> (B, K, ...), any network whose output is of the image's size.
        denoiser: has ``encode(image, presegmentation) -> features`` and ``denoise(x_t, t, features, solver, solver_steps)``,
            such as :class:`ODEUNet`.
        time_steps: descending time indices of the chain in ``forward``; empty gives the pre-segmentation.
        num_train_timesteps: T.
        schedule: name of MONAI's noise schedule.
        schedule_options: its arguments.
        prediction: what the denoiser predicts, ``"x0"`` (as logits), ``"eps"`` or ``"v"``.
        label_range: states of an absent and of a present class. The narrower it is, the lower the noise at which a
            region is decided; see docs/explanation/few-steps.md.
        presegmentation: ``"hard"`` starts from, and shows the denoiser, the one-hot argmax; ``"soft"`` the probabilities.
        segmenter_output: ``"logits"`` or ``"probabilities"``.

    Raises:
        ValueError: when an argument is not one of those allowed.
    """

    abar: torch.Tensor
    time_steps: list[int]  # TorchScript needs the type of a list that may be empty

    def __init__(
        self,
        segmenter: nn.Module,
        denoiser: nn.Module,
        time_steps: Sequence[int] = (899, 674, 449, 225, 0),
        num_train_timesteps: int = 1000,
        schedule: str = "cosine",
        schedule_options: dict[str, Any] | None = None,
        prediction: str = "x0",
        label_range: Sequence[float] = (-1.0, 1.0),
        presegmentation: str = "hard",
        segmenter_output: str = "logits",
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction: '{prediction}' was found, one of {', '.join(PREDICTIONS)} is expected")
        if len(label_range) != 2 or not label_range[0] < label_range[1]:
            raise ValueError(f"label_range: {label_range} was found, two rising numbers are expected")
        if presegmentation not in PRESEGMENTATIONS:
            raise ValueError(f"presegmentation: '{presegmentation}' was found, hard or soft is expected")
        if segmenter_output not in ("logits", "probabilities"):
            raise ValueError(f"segmenter_output: '{segmenter_output}' was found, logits or probabilities is expected")
        self.segmenter = segmenter.requires_grad_(False).eval()
        self.denoiser = denoiser
        self.time_steps = check_steps(time_steps, num_train_timesteps)
        self.prediction = prediction
        self.low, self.high = float(label_range[0]), float(label_range[1])
        self.hard = presegmentation == "hard"
        self.logits = segmenter_output == "logits"
        abar = cumulative_schedule(num_train_timesteps, schedule, **(schedule_options or {}))
        self.register_buffer("abar", abar, persistent=False)

    def with_denoiser(self, denoiser: nn.Module) -> "PDDDPM":
        """Return the same pair with another denoiser, such as its moving average; the segmenter is shared."""
        twin = copy.copy(self)
        twin._modules = self._modules | {"denoiser": denoiser}
        return twin

    def train(self, mode: bool = True) -> "PDDDPM":
        """Set the mode of the denoiser; the segmenter stays in evaluation mode."""
        super().train(mode)
        self.segmenter.eval()
        return self

    @torch.jit.export
    def segment(self, image: torch.Tensor) -> torch.Tensor:
        """Return the pre-segmentation's probabilities, (B, K, ...) float32, for an image (B, C, ...)."""
        output = self.segmenter(image).float()
        return output.softmax(dim=1) if self.logits else output

    @torch.jit.export
    def propose(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return the presegmentation, (B, K, ...): the segmenter's probabilities, or their one-hot argmax when ``hard``."""
        if not self.hard:
            return probabilities
        index = likeliest_class(probabilities, dim=1, keepdim=True)
        return torch.zeros_like(probabilities).scatter_(1, index, 1.0)

    @torch.jit.export
    def state(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return probabilities or one-hot labels as a clean state, in ``label_range``."""
        return encode_labels(probabilities, self.low, self.high)

    @torch.jit.export
    def encode(self, image: torch.Tensor, presegmentation: torch.Tensor) -> list[torch.Tensor]:
        """Return the denoiser's features of image and presegmentation, computed once for all steps and members."""
        return self.denoiser.encode(image, self.state(presegmentation))  # type: ignore[operator]

    @torch.jit.export
    def start(self, presegmentation: torch.Tensor, noise: torch.Tensor, t: int) -> torch.Tensor:
        """Return sqrt(abar_t) x_pre + sqrt(1 - abar_t) noise, the state in which the chain starts (PD-DDPM)."""
        return start_state(self.state(presegmentation), noise, self.abar[t])

    @torch.jit.export
    def denoise(
        self, x_t: torch.Tensor, t: torch.Tensor, features: list[torch.Tensor], solver: str = "", solver_steps: int = 0
    ) -> torch.Tensor:
        """Return the denoiser's output for x_t (B, K, ...) and time indices t, (B,) or (1,)."""
        return self.denoiser.denoise(x_t, t, features, solver, solver_steps)  # type: ignore[operator]

    @torch.jit.export
    def x0(self, output: torch.Tensor, x_t: torch.Tensor, t: int) -> torch.Tensor:
        """Return the state x_0 that the denoiser's output stands for, float32 in ``label_range``."""
        return predicted_x0(output, x_t, self.abar[t], self.prediction, self.low, self.high)

    @torch.jit.export
    def probabilities(self, x_0: torch.Tensor) -> torch.Tensor:
        """Return a predicted x_0 as probabilities, (B, K, ...), that sum to 1 over the classes."""
        return decode_probabilities(x_0, self.low, self.high)

    def forward(self, image: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Return one member's probabilities: segment, noise, and go back along ``time_steps`` by DDIM with eta 0.

        Args:
            image: (B, C, ...), of a size that both networks take.
            noise: (B, K, ...), standard normal; drawn when not given.

        Returns:
            (B, K, ...), summing to 1 over the classes.
        """
        pre = self.segment(image)
        if len(self.time_steps) == 0:
            return pre
        presegmentation = self.propose(pre)
        features = self.encode(image, presegmentation)
        x_t = self.start(presegmentation, torch.randn_like(pre) if noise is None else noise, self.time_steps[0])
        x_0 = x_t
        for i, t in enumerate(self.time_steps):
            output = self.denoise(x_t, torch.full([1], t, device=x_t.device), features, "", 0)
            x_0 = self.x0(output, x_t, t)
            if i + 1 < len(self.time_steps):
                x_t = ddim_step(x_t, x_0, self.abar[t], self.abar[self.time_steps[i + 1]], 0.0, None)
        return self.probabilities(x_0)
