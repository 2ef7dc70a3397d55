"""What turns the pipeline of ``configs/`` into bundles, and what a running bundle asks of its surroundings."""

from .locate import find_bundle_root, pick_device

__all__ = ["find_bundle_root", "pick_device"]
