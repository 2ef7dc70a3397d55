"""Replacement for torchvision, whose names MONAI Label and torchmetrics import but do not use here.

Put this folder on PYTHONPATH only where torchvision is not installed: its wheels need the CUDA build of torch.
"""

import sys
import types


def missing(*args, **kwargs):
    """Replace any function of torchvision."""
    raise RuntimeError(
        "torchvision: found its replacement, expected the package; install it and remove apps/monailabel/stub"
    )


class Part(types.ModuleType):
    """Replace any part of torchvision."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return missing


for name in ("models", "ops", "transforms", "utils"):
    globals()[name] = sys.modules[f"torchvision.{name}"] = Part(f"torchvision.{name}")
