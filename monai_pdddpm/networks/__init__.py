"""The denoiser, its ODE blocks, and the pair of segmenter and denoiser."""

from .ode_block import SecondOrderODEBlock
from .ode_unet import ODEUNet
from .pdddpm import PDDDPM, NoSegmenter
from .protocols import Denoiser, Pair
from .solvers import FIXED_STEP_SOLVERS

__all__ = [
    "FIXED_STEP_SOLVERS",
    "PDDDPM",
    "Denoiser",
    "NoSegmenter",
    "ODEUNet",
    "Pair",
    "SecondOrderODEBlock",
]
