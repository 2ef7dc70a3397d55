"""Ignite handlers: what happens around training and evaluation."""

from .checkpoint import EpochSeed, ModelSaver, TrainingCheckpoint
from .progress import Progress

__all__ = ["EpochSeed", "ModelSaver", "Progress", "TrainingCheckpoint"]
