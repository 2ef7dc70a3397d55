"""Ignite handlers: what happens around training and evaluation."""

from .calibration_fit import CalibrationFit
from .case_report import CaseReport
from .checkpoint import EpochSeed, ModelSaver, TrainingCheckpoint
from .evaluation_report import EvaluationReport
from .progress import Progress

__all__ = [
    "CalibrationFit",
    "CaseReport",
    "EpochSeed",
    "EvaluationReport",
    "ModelSaver",
    "Progress",
    "TrainingCheckpoint",
]
