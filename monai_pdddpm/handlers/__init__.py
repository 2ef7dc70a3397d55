"""Ignite handlers of training, inference and evaluation."""

from .calibration_fit import CalibrationFit
from .case_files import CaseFiles
from .checkpoint import EpochSeed, ModelSaver, TrainingCheckpoint
from .evaluation_report import EvaluationReport
from .finite_gradients import FiniteGradients
from .progress import Attached, CaseProgress, DistributedMembersHandler, Progress, ReraiseExceptions, TrackedLoss
from .run_files import RunFiles

__all__ = [
    "Attached",
    "CalibrationFit",
    "CaseFiles",
    "CaseProgress",
    "DistributedMembersHandler",
    "EpochSeed",
    "EvaluationReport",
    "FiniteGradients",
    "ModelSaver",
    "Progress",
    "ReraiseExceptions",
    "RunFiles",
    "TrackedLoss",
    "TrainingCheckpoint",
]
