"""Rendering of bundles from ``configs/``, and the functions that a running bundle calls by name."""

from monai_pdddpm.networks.weights import load_network, load_segmenter
from monai_pdddpm.utils.memory import keep_freed_memory

from .calibration_file import load_calibration, save_calibration
from .distributed import GlobalLoss, distributed_network, join_ranks, rank_device
from .export import export_ensemble
from .start import find_bundle_root, has_full_batch, pick_device, start_run

__all__ = [
    "GlobalLoss",
    "distributed_network",
    "export_ensemble",
    "find_bundle_root",
    "has_full_batch",
    "join_ranks",
    "keep_freed_memory",
    "load_calibration",
    "load_network",
    "load_segmenter",
    "pick_device",
    "rank_device",
    "save_calibration",
    "start_run",
]
