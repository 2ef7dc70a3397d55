"""The whole method on whole volumes, as an ordinary MONAI inferer."""

from __future__ import annotations

import logging
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from monai_pdddpm.schedulers import check_steps
from monai_pdddpm.utils.errors import UserError

from .chain import Stopwatch
from .config import EnsembleConfig
from .ensemble import EnsembleRun, has_parts
from .run_info import EnsembleRunInfo

logger = logging.getLogger(__name__)


class PDDDPMInferer(Inferer):
    """Draw members for a whole volume and return their statistics as one tensor.

    The segmenter runs in every window, and its blended output is the pre-segmentation. The chain runs in the windows
    with active voxels (:func:`monai_pdddpm.inferers.active_voxels.active_voxels`); elsewhere every member equals the
    pre-segmentation. A member's noise is cut from one field for the whole volume, and its windows are blended in
    float32 before any statistic is taken, so a member is a sample of the whole volume. The inferer has no state: one
    object may serve several threads.

    Args:
        communicator: not used yet.
        settings: the fields of :class:`monai_pdddpm.inferers.EnsembleConfig`; ``roi_size`` and ``time_steps`` are
            required.

    Raises:
        UserError: if a setting is unknown or out of range; on a call, if ``roi_size`` or ``time_steps`` do not fit the
            network.
    """

    def __init__(self, communicator: Any = None, **settings: Any) -> None:
        super().__init__()
        self.config = EnsembleConfig.from_settings(settings)
        self.chain = self.config.chain()

    def __call__(  # type: ignore[override]
        self, inputs: torch.Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return mean, spread and pre-segmentation of a batch of volumes.

        Args:
            inputs: (B, C, X, Y[, Z]).
            network: :class:`monai_pdddpm.networks.PDDDPM`, eager or as TorchScript.
            args: not used.
            kwargs: not used.

        Returns:
            (B, T x channels, X, Y[, Z]) float32, where T is the number of frames, 1 without a time axis, and the
            channels are those of :class:`monai_pdddpm.inferers.EnsembleOutput`. A MetaTensor comes back as one; its
            ``meta["ensemble_run"]`` is a list with one :class:`monai_pdddpm.inferers.EnsembleRunInfo` per case.
        """
        network = getattr(network, "module", network)
        images = (inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs).float()
        self._check(images, network)
        if not has_parts(network):
            logger.warning(
                "the network offers forward(image) only: no pre-segmentation, time steps and rule are its own, and the "
                "spread comes out too small where windows overlap"
            )
        with torch.no_grad():
            done = [self._volume(network, image) for image in images]
        volumes = [volume for volume, _ in done]
        output = torch.stack(volumes) if len(volumes) > 1 else volumes[0][None]
        if not isinstance(inputs, MetaTensor):
            return output
        wrapped = MetaTensor(output, meta=dict(inputs.meta))
        wrapped.is_batch = inputs.is_batch
        wrapped.meta["ensemble_run"] = [info for _, info in done]
        return wrapped

    def _volume(self, network: Any, image: torch.Tensor) -> tuple[torch.Tensor, EnsembleRunInfo]:
        """Return the output channels of one image, (C, X, Y[, Z]), and what was run."""
        run = EnsembleRun(self.config, self.chain, network, image, Stopwatch(image.device))
        return run.run(), run.info()

    def _check(self, images: torch.Tensor, network: Any) -> None:
        """Raise an error when the settings do not fit the images or the network."""
        roi_size = list(self.config.roi_size)
        if len(roi_size) != images.dim() - 2:
            raise UserError(
                f"roi_size: found {roi_size} for images with {images.dim() - 2} spatial axes, expected one "
                "number for each; fix --roi_size"
            )
        if not has_parts(network):
            return
        divisor = getattr(getattr(network, "denoiser", None), "divisor", 1)
        if any(r % divisor for r in roi_size):
            raise UserError(
                f"roi_size: found {roi_size}, expected multiples of {divisor}, which the denoiser needs; fix --roi_size"
            )
        check_steps(self.config.time_steps, len(network.abar))
