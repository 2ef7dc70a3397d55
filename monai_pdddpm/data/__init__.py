"""Lists of cases, reading of scans, and writing of results.

A module is imported with the first of its names that is used, so that lists are read without MONAI.
"""

from importlib import import_module

_NAMES = {
    "monai_pdddpm.utils.checks": ("check_output_dir",),
    "monai_pdddpm.utils.ranks": ("RankSampler", "cases_of_rank", "is_first_rank"),
    "monai_pdddpm.data.cache": ("CachedDataset", "WindowSampler"),
    "monai_pdddpm.data.case": ("case_name",),
    "monai_pdddpm.data.checks": ("CheckImaged", "CheckLabeld"),
    "monai_pdddpm.data.datalist": ("given_input", "inference_cases", "labelled_cases", "training_cases"),
    "monai_pdddpm.data.dataset": ("CaseDataset", "CaseFailure", "case_collate"),
    "monai_pdddpm.data.folds": ("fold_cases",),
    "monai_pdddpm.data.frames": ("OneFramed", "frame_cases"),
    "monai_pdddpm.data.loading": ("LoadImageScand", "LoadScan"),
    "monai_pdddpm.data.pending": ("pending_cases",),
    "monai_pdddpm.data.phantom": ("ensure_phantom", "write_phantom"),
    "monai_pdddpm.data.presegmentations": ("check_presegmentations",),
    "monai_pdddpm.data.scan_spec": ("ScanSpec",),
}


def __getattr__(name: str) -> object:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
