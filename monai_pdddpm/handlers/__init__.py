"""Ignite handlers: what happens around training and evaluation."""

from .calibration_fit import CalibrationFit
from .case_report import CaseReport
from .checkpoint import EpochSeed, ModelSaver, TrainingCheckpoint
from .evaluation_report import EvaluationReport
from .folder_report import FolderReport
from .member_server import MemberServer
from .pass_on import PassOn
from .progress import CaseProgress, Progress, TrackedLoss
from .run_record import RunRecord
from .viewer_files import ViewerFiles

__all__ = [
    "CalibrationFit",
    "CaseProgress",
    "CaseReport",
    "EpochSeed",
    "EvaluationReport",
    "FolderReport",
    "MemberServer",
    "ModelSaver",
    "PassOn",
    "Progress",
    "RunRecord",
    "TrackedLoss",
    "TrainingCheckpoint",
    "ViewerFiles",
]
