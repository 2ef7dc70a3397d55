"""Stands in for torchvision where it is imported and never used, so that a torch for the CPU needs none for CUDA.

Put this folder on PYTHONPATH, only where torchvision is not installed. MONAI Label and torchmetrics import names of it.
"""

import sys
import types


def missing(*args, **kwargs):
    """Stand for any function of torchvision."""
    raise RuntimeError("this needs the real torchvision: install it, and take apps/pdddpm/stub off PYTHONPATH")


class Part(types.ModuleType):
    """Stand for any part of torchvision."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return missing


for name in ("models", "ops", "transforms", "utils"):
    globals()[name] = sys.modules[f"torchvision.{name}"] = Part(f"torchvision.{name}")
