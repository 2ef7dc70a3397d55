"""The whole answer for one window as one network, with all that could be chosen fixed: what is exported."""

from collections.abc import Sequence

import torch
from torch import nn

from monai_pdddpm.metrics.recalibration import tempered
from monai_pdddpm.schedulers import check_steps
from monai_pdddpm.schedulers.rules import ddim_step

from .pdddpm import PDDDPM

OUTPUTS = ("prob", "entropy", "mutual_information", "variance")


class FixedEnsemble(nn.Module):
    """Image window -> what all members say together. One tensor in, four out; TorchScript and ONNX take it.

    The members run as one batch, from noise that is a part of the network: a seed would give other noise in every
    runtime. The rule is DDIM with eta 0, which draws no noise on the way.

    Args:
        network: segmenter and denoiser.
        noise: the members' starts, (members, K, X, Y[, Z]); its size is the window's.
        time_steps: descending indices of the chain; empty gives the pre-segmentation.
        presegmentation_weight: weight, 0 to below 1, of the segmenter's probabilities beside the members'.
        temperature: of the mean probabilities, above 0; 1 leaves them as they are.
        solver: of the ODE blocks, the network's own when empty.
        solver_steps: its steps at each time, the network's own where 0, or everywhere when empty.
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
        """Return the answer for one window.

        Args:
            image: (1, C, X, Y[, Z]) of the window's size, preprocessed as for inference.

        Returns:
            mean probabilities, tempered, (1, K, ...); their entropy in nats, (1, 1, ...); mutual information in nats,
            of the mean before it is tempered, (1, 1, ...); variance over the members of the foreground classes,
            (1, K-1, ...).

        Raises:
            ValueError: when the image is not one window.
        """
        if image.size(0) != 1 or list(image.shape[2:]) != self.window:
            raise ValueError("image: one image of the window's size is expected; see 'window' in the export's settings")
        preseg = self.network.segment(image)
        members = self.members(image, preseg)
        share = self.presegmentation_weight
        mean = (1 - share) * members.mean(0, keepdim=True) + share * preseg
        squares = (1 - share) * (members - mean).square().mean(0, keepdim=True) + share * (preseg - mean).square()
        entropies = (1 - share) * _entropy(members).mean(0, keepdim=True) + share * _entropy(preseg)
        prob = tempered(mean, self.temperature, 1)
        return prob, _entropy(prob), (_entropy(mean) - entropies).clamp(min=0), squares[:, 1:]

    def members(self, image: torch.Tensor, preseg: torch.Tensor) -> torch.Tensor:
        """Return the members' probabilities, (members, K, ...); of an empty chain the pre-segmentation, (1, K, ...)."""
        net = self.network
        if len(self.time_steps) == 0:
            return preseg
        presegmentation = net.propose(preseg)
        features = net.encode(image, presegmentation)
        x_t = net.start(presegmentation, self.noise, self.time_steps[0])
        x_0 = x_t
        for i, t in enumerate(self.time_steps):
            time_index = torch.full([1], t, device=x_t.device)
            output = net.denoise(x_t, time_index, features, self.solver, self.solver_steps[i])
            x_0 = net.x0(output, x_t, t)
            if i + 1 < len(self.time_steps):
                x_t = ddim_step(x_t, x_0, net.abar[t], net.abar[self.time_steps[i + 1]], 0.0, None)
        return net.probabilities(x_0)


def _entropy(p: torch.Tensor) -> torch.Tensor:
    """Return the entropy over the classes in nats, (B, 1, ...).

    That is the metrics' ``predictive_entropy`` without its clamp to [0, 1], in whose place onnxscript 0.7.2 now and
    then writes a node that ONNX Runtime refuses. Here nothing but rounding leads out of [0, 1].
    """
    return torch.special.entr(p).sum(1, keepdim=True).clamp(min=0)
