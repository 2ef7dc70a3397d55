"""Ignite handlers: what happens around training and evaluation."""

from .calibration_fit import CalibrationFit
from .case_report import CaseReport
from .checkpoint import EpochSeed, ModelSaver, TrainingCheckpoint
from .distributed_members import DistributedMembersHandler
from .evaluation_report import EvaluationReport
from .folder_report import FolderReport
from .progress import CaseProgress, Progress, TrackedLoss
from .provenance import ProvenanceHandler
from .reraise_exceptions import ReraiseExceptions
from .viewer_files import ViewerFiles

__all__ = [
    "CalibrationFit",
    "CaseProgress",
    "CaseReport",
    "DistributedMembersHandler",
    "EpochSeed",
    "EvaluationReport",
    "FolderReport",
    "ModelSaver",
    "Progress",
    "ProvenanceHandler",
    "ReraiseExceptions",
    "TrackedLoss",
    "TrainingCheckpoint",
    "ViewerFiles",
]
