"""How a training's learning rate goes."""

from .cosine import CosineDecay

__all__ = ["CosineDecay"]
