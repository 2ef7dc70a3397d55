"""Lists of cases, reading of scans, and writing of results."""

from monai_pdddpm.utils.checks import check_output_dir
from monai_pdddpm.utils.ranks import RankSampler, cases_of_rank, is_first_rank

from .cache import CachedDataset
from .case import case_name
from .checks import CheckImaged, CheckLabeld
from .datalist import given_input, inference_cases, labelled_cases, training_cases
from .dataset import CaseDataset, CaseFailure, case_collate
from .folds import fold_cases
from .frames import OneFramed, frame_cases
from .loading import LoadImageScand, LoadScan
from .pending_cases import pending_cases
from .phantom import ensure_phantom, write_phantom
from .presegmentations import warn_of_leakage
from .scan_spec import ScanSpec

__all__ = [
    "CachedDataset",
    "CaseDataset",
    "CaseFailure",
    "CheckImaged",
    "CheckLabeld",
    "LoadImageScand",
    "LoadScan",
    "OneFramed",
    "RankSampler",
    "ScanSpec",
    "case_collate",
    "case_name",
    "cases_of_rank",
    "check_output_dir",
    "ensure_phantom",
    "fold_cases",
    "frame_cases",
    "given_input",
    "inference_cases",
    "is_first_rank",
    "labelled_cases",
    "pending_cases",
    "training_cases",
    "warn_of_leakage",
    "write_phantom",
]
