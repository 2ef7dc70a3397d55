"""The scans that a network takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monai_pdddpm.utils.checks import check_choice, check_range
from monai_pdddpm.utils.errors import UserError

FOURTH_DIMENSIONS = ("channel", "time")
MISSING_CHANNELS = ("error", "zero")


@dataclass(frozen=True, kw_only=True)
class ScanSpec:
    """Requirements of a scan, shared by `LoadImageScand` and `CheckImaged`.

    Attributes:
        channels: number of channels; 1 also fits scans without a channel axis; None takes any number.
        spatial_dims: number of spatial axes, 2 or 3.
        fourth_dimension: meaning of a fourth axis: ``"channel"``, or ``"time"`` for frames of one channel, of which a
            scan may have any number.
        channel_names: names of the channels by number, such as ``{"0": "FLAIR", "1": "T1"}``, for messages.
        missing: ``"error"``, or ``"zero"`` to replace a missing channel of a list of files by zeros.

    Raises:
        UserError: when a value is not allowed, or frames are combined with several channels.
    """

    channels: int | None = 1
    spatial_dims: int = 3
    fourth_dimension: str = "channel"
    channel_names: Mapping[str, str] | None = None
    missing: str = "error"

    def __post_init__(self) -> None:
        if self.channels is not None:
            check_range("channels", self.channels, 1)
        check_range("spatial_dims", self.spatial_dims, 2, 3)
        check_choice("fourth_dimension", self.fourth_dimension, FOURTH_DIMENSIONS)
        check_choice("missing_channels", self.missing, MISSING_CHANNELS)
        if self.has_frames and self.channels not in (None, 1):
            raise UserError(
                f"fourth_dimension: found 'time' with {self.channels} channels, expected frames of one channel; set "
                "fourth_dimension to 'channel', or use a bundle made for one channel"
            )

    @property
    def has_frames(self) -> bool:
        """Whether a fourth axis is time."""
        return self.fourth_dimension == "time"

    def channel_label(self, index: int) -> str:
        """Return the name of a channel for messages, such as ``channel 0 (FLAIR)``."""
        name = (self.channel_names or {}).get(str(index))
        return f"channel {index}" if name is None else f"channel {index} ({name})"
