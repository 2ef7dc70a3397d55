"""What a MONAI Label server needs of the bundles; nothing here imports MONAI Label, the app in ``apps/pdddpm`` does."""

from .annotations import check_annotations, read_pairs
from .folders import bundle_labels, find_bundles
from .levels import EntropyLevelsd, entropy_levels, level_names
from .scoring import mean_entropy_near_structure
from .training import fine_tune, hold_out

__all__ = [
    "EntropyLevelsd",
    "bundle_labels",
    "check_annotations",
    "entropy_levels",
    "find_bundles",
    "fine_tune",
    "hold_out",
    "level_names",
    "mean_entropy_near_structure",
    "read_pairs",
]
