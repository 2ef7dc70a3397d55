"""The denoiser, its ODE blocks, and the pair of segmenter and denoiser."""

from .coarse import CoarseODEUNet
from .ode_block import SecondOrderODEBlock
from .ode_unet import ConditionEncoder, ODEUNet
from .pdddpm import PDDDPM, NoSegmenter
from .protocols import Denoiser, Pair, Segmenter
from .solvers import FIXED_STEP_SOLVERS, tableau

__all__ = [
    "FIXED_STEP_SOLVERS",
    "PDDDPM",
    "CoarseODEUNet",
    "ConditionEncoder",
    "Denoiser",
    "NoSegmenter",
    "ODEUNet",
    "Pair",
    "SecondOrderODEBlock",
    "Segmenter",
    "tableau",
]
