"""Cases at the door: which there are, whether they can be read, and how results are written."""

from typing import Any

from .cache import CachedDataset
from .checks import CheckImaged, CheckLabeld, check_file, check_output_dir, check_range, check_voxels
from .datalist import case_name, inference_cases, labelled_cases
from .dataset import CaseDataset, CaseFailure, case_collate
from .finished import report_path, unfinished_cases
from .folds import fold_cases, training_cases, with_readings
from .label_values import LabelValueWriter
from .loading import LoadScan, LoadScand
from .provenance import run_record
from .ranks import RankSampler, cases_of_rank, is_first_rank
from .scans import plan_scan
from .writer import GridWriter

__all__ = [
    "CachedDataset",
    "CaseDataset",
    "CaseFailure",
    "CheckImaged",
    "CheckLabeld",
    "GridWriter",
    "LabelValueWriter",
    "LoadScan",
    "LoadScand",
    "RankSampler",
    "case_collate",
    "case_name",
    "cases_of_rank",
    "check_file",
    "check_output_dir",
    "check_range",
    "check_voxels",
    "ensure_phantom",
    "fold_cases",
    "inference_cases",
    "is_first_rank",
    "labelled_cases",
    "plan_scan",
    "report_path",
    "run_record",
    "training_cases",
    "unfinished_cases",
    "with_readings",
    "write_phantom",
]


def __getattr__(name: str) -> Any:
    # imported late, so that `python -m monai_pdddpm.data.phantom` finds its module not yet loaded
    if name in ("ensure_phantom", "write_phantom"):
        from . import phantom

        return getattr(phantom, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
