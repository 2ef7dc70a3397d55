"""Schedules of the learning rate."""

from .cosine import CosineDecay

__all__ = ["CosineDecay"]
