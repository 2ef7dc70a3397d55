"""The whole ensemble of one window as one network with fixed noise, for exports."""

from collections.abc import Sequence

import torch
from torch import nn

from monai_pdddpm.schedulers import Chain, check_steps
from monai_pdddpm.utils.probabilities import tempered

from .pdddpm import PDDDPM

OUTPUTS = ("prob", "entropy", "mutual_information", "variance")


class FixedEnsemble(nn.Module):
    """Map an image window to probabilities and uncertainty maps; TorchScript and ONNX can express it.

    The members run as one batch. Their noise is a buffer of the network, because the same seed gives other noise in
    other runtimes. The rule is DDIM with eta 0, which draws no noise after the start.

    Args:
        network: segmenter and denoiser; it is frozen and set to evaluation mode. Its training process decides the
            reverse step.
        noise: starts of the members, (members, K, X, Y[, Z]), of the window's size.
        time_steps: descending indices of the chain; empty returns the pre-segmentation.
        presegmentation_weight: weight of the segmenter in the answer, 0 to below 1.
        temperature: of the answer, above 0; 1 does not change it.
        solver: solver of the ODE blocks; empty uses the network's own.
        solver_steps: solver steps at each time, 0 for the network's own; an empty list uses the network's own.
    """

    noise: torch.Tensor
    window: list[int]
    time_steps: list[int]  # TorchScript needs the type of a list that may be empty
    solver_steps: list[int]

    def __init__(
        self,
        network: PDDDPM,
        noise: torch.Tensor,
        time_steps: Sequence[int],
        presegmentation_weight: float = 0.0,
        temperature: float = 1.0,
        solver: str = "",
        solver_steps: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("noise", noise)
        self.window = list(noise.shape[2:])
        self.time_steps = check_steps(time_steps, len(network.abar))
        self.presegmentation_weight = float(presegmentation_weight)
        self.temperature = float(temperature)
        self.solver = solver
        self.solver_steps = list(solver_steps) or [0] * len(self.time_steps)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return probabilities and maps of one window.

        Args:
            image: (1, C, X, Y[, Z]) of the window's size, preprocessed as for inference.

        Returns:
            probabilities of the answer, tempered, (1, K, ...); their entropy in nats, (1, 1, ...); mutual information
            of the members in nats, (1, 1, ...); variance over the members of the foreground classes, (1, K-1, ...).

        Raises:
            ValueError: if the image is not one window.
        """
        if image.size(0) != 1 or list(image.shape[2:]) != self.window:
            raise ValueError("image: expected one image of the window's size; see 'window' in the export's settings")
        preseg = self.network.segment(image)
        first, members = self.members(image, preseg)
        weight = self.presegmentation_weight
        answer = tempered((1 - weight) * first.mean(0) + weight * preseg, self.temperature, 1)
        mean = members.mean(0, keepdim=True)
        information = (_entropy(mean) - _entropy(members).mean(0)).clamp(min=0)
        return answer, _entropy(answer), information, (members - mean).square().mean(0, keepdim=True)[:, 1:]

    def members(self, image: torch.Tensor, preseg: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return first predictions and members, each (members, K, ...); without steps the pre-segmentation as both."""
        if len(self.time_steps) == 0:
            return preseg, preseg
        presegmentation = self.network.prepare_presegmentation(preseg)
        features = self.network.encode(image, presegmentation)
        chain = Chain(self.time_steps, self.solver_steps, solver=self.solver)
        return self.network.reverse(presegmentation, features, [self.noise], chain)


def _entropy(p: torch.Tensor) -> torch.Tensor:
    """Return the entropy over the classes in nats, (B, 1, ...).

    This is ``predictive_entropy`` without its clamp to [0, 1], for which onnxscript 0.7.2 sometimes writes a node that
    ONNX Runtime refuses. Nothing leaves [0, 1] here.
    """
    return torch.special.entr(p).sum(1, keepdim=True)
