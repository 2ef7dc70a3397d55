"""What a MONAI Label server needs of the bundles; nothing here imports MONAI Label, the app in ``apps/pdddpm`` does."""

from .annotations import check_annotations, read_pairs
from .folders import bundle_labels, find_bundles
from .levels import EntropyLevelsd, entropy_levels, level_names
from .scoring import doubt
from .training import fine_tune, hold_out

__all__ = [
    "EntropyLevelsd",
    "bundle_labels",
    "check_annotations",
    "doubt",
    "entropy_levels",
    "find_bundles",
    "fine_tune",
    "hold_out",
    "level_names",
    "read_pairs",
]
