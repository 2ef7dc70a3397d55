"""What turns the pipeline of ``configs/`` into bundles, and what a running bundle asks of its surroundings."""

from .calibration import load_calibration, save_calibration
from .locate import find_bundle_root, pick_device
from .settings import check_settings
from .weights import load_network, load_segmenter

__all__ = [
    "check_settings",
    "find_bundle_root",
    "load_calibration",
    "load_network",
    "load_segmenter",
    "pick_device",
    "save_calibration",
]
