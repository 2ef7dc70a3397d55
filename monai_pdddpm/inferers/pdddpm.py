"""The whole method on whole volumes, as an ordinary MONAI inferer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from monai_pdddpm.data.case import Case
from monai_pdddpm.networks import Pair
from monai_pdddpm.schedulers import check_residual_start, check_steps
from monai_pdddpm.utils.errors import UserError

from .communicator import Communicator
from .config import EnsembleConfig
from .denoising_inferer import plain
from .ensemble import EnsembleRun
from .run_info import EnsembleRunInfo

_LARGEST = 1e15  # voxel value; above it, squares overflow float32 in the networks
_ROUNDED = 0.02  # rounding error allowed in probabilities from files


class PDDDPMInferer(Inferer):
    """Draw members for a whole volume and return their statistics as one tensor.

    The segmenter runs in every window, and its blended output is the pre-segmentation. The chain runs in the windows
    with active voxels (:func:`monai_pdddpm.inferers.active_voxels.active_voxels`); elsewhere every member equals the
    pre-segmentation. A member's noise is cut from one field for the whole volume, and its windows are blended in
    float32 before any statistic is taken, so a member is a sample of the whole volume. The answer is the average of
    the first predictions, mixed with the pre-segmentation; the members are the ends of the chains. The noise depends
    on seed, case and member alone. The inferer has no state: one object may serve several threads.

    Args:
        communicator: divides the members of a volume between processes; None draws all of them in this one.
        settings: the fields of :class:`monai_pdddpm.inferers.EnsembleConfig`; ``roi_size`` and ``time_steps`` are
            required.

    Raises:
        UserError: if a setting is unknown or out of range; on a call, if a setting does not fit image or network, or
            the image has voxels that are not finite.
    """

    def __init__(self, communicator: Communicator | None = None, **settings: Any) -> None:
        super().__init__()
        self.config = EnsembleConfig.from_settings(settings)
        self.chain = self.config.chain()
        self.communicator = communicator or Communicator()

    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        network: Pair,
        *_: Any,
        presegmentation: torch.Tensor | None = None,
        **__: Any,
    ) -> torch.Tensor:
        """Return statistics, pre-segmentation and members of a batch of volumes; other arguments are ignored.

        Args:
            inputs: (B, C, X, Y[, Z]).
            network: :class:`monai_pdddpm.networks.PDDDPM`, eager or as TorchScript.
            presegmentation: probabilities to use in place of the segmenter's, (B, K, X, Y[, Z]).

        Returns:
            (B, T x channels, X, Y[, Z]) float32, where T is the number of frames, 1 without a time axis, and the
            channels are those of :class:`monai_pdddpm.inferers.EnsembleOutput`. A MetaTensor comes back as one; its
            ``meta["ensemble_run"]`` is a list with one :class:`monai_pdddpm.inferers.EnsembleRunInfo` per case.
        """
        if inputs.is_complex():
            raise UserError(
                "image: found complex numbers, expected real ones; take their magnitude in the preprocessing"
            )
        images = plain(inputs).float()
        presegmentation = None if presegmentation is None else plain(presegmentation).detach().float()
        self._check(images, network, presegmentation)
        given = [None] * len(images) if presegmentation is None else list(presegmentation)
        with torch.no_grad():
            done = [
                self.communicator.run(partial(self._volume, network, own), image, case)
                for image, case, own in zip(images, _case_names(inputs), given, strict=True)
            ]
        volumes = [volume for volume, _ in done]
        output = torch.stack(volumes) if len(volumes) > 1 else volumes[0][None]
        if not isinstance(inputs, MetaTensor):
            return output
        wrapped = MetaTensor(output, meta=dict(inputs.meta))
        wrapped.is_batch = inputs.is_batch
        wrapped.meta["ensemble_run"] = [info for _, info in done]
        return wrapped

    def serve(self, network: Pair, device: torch.device) -> None:
        """Draw members on a device for the first process until it dismisses this one; do nothing in the first one."""
        with torch.no_grad():
            self.communicator.serve(lambda image, case: self._volume(network, None, image.to(device), case))

    def dismiss(self) -> None:
        """End :meth:`serve` in the other processes."""
        self.communicator.dismiss()

    def _volume(
        self, network: Pair, presegmentation: torch.Tensor | None, image: torch.Tensor, case: str
    ) -> tuple[torch.Tensor, EnsembleRunInfo]:
        """Return the output of one image, (T x channels, X, Y[, Z]), and what was run."""
        run = EnsembleRun(self.config, self.chain, network, image, self.communicator, case, presegmentation)
        return run.run(), run.info()

    def _check(self, images: torch.Tensor, network: Pair, presegmentation: torch.Tensor | None) -> None:
        """Raise an error if the settings do not fit the images or the network."""
        roi_size, axes = list(self.config.roi_size), images.dim() - 2
        if images.numel() == 0:
            raise UserError("image: found an empty batch or image, expected at least one image; check the data loader")
        if len(roi_size) != axes:
            raise UserError(
                f"roi_size: found {roi_size} for images with {axes} spatial axes, expected one number for each; fix "
                "--roi_size"
            )
        if any(r % network.divisor for r in roi_size):
            raise UserError(
                f"roi_size: found {roi_size}, expected multiples of {network.divisor}, which the denoiser needs; fix "
                "--roi_size"
            )
        check_steps(self.chain.time_steps, len(network.abar))
        if network.residual and self.chain.time_steps:
            check_residual_start(self.chain.time_steps[0], network.abar)
        expected = (len(images), network.num_classes, *images.shape[2:])
        if presegmentation is not None and (
            tuple(presegmentation.shape) != expected or (self.config.fourth_dimension == "time" and images.shape[1] > 1)
        ):
            raise UserError(
                f"presegmentation: found shape {tuple(presegmentation.shape)}, expected {expected}, of one frame; "
                "give the probabilities of all classes on the image's grid"
            )
        low, high = (0.0, 1.0) if presegmentation is None else map(float, presegmentation.aminmax())
        if not -_ROUNDED <= low <= high <= 1 + _ROUNDED:  # NaN fails too
            raise UserError(
                f"presegmentation: found values from {low:g} to {high:g}, expected probabilities; apply a softmax"
            )
        if not all(abs(value) <= _LARGEST for value in map(float, images.detach().aminmax())):
            raise UserError(
                f"image: found voxels that are NaN or infinite, or above {_LARGEST:g}, expected normalized values; fix "
                "the preprocessing"
            )


def _case_names(inputs: torch.Tensor) -> list[str]:
    """Return the case name of each image of a batch, empty for a tensor without metadata."""
    if not isinstance(inputs, MetaTensor):
        return [""] * len(inputs)
    cases = inputs.meta.get("case")
    if not isinstance(cases, list):
        cases = [cases] * len(inputs)
    return [case.name if isinstance(case, Case) else "" for case in cases]
