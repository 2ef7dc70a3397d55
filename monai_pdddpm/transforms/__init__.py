"""Dictionary transforms that MONAI lacks, and the corruption of pre-segmentations."""

from .case_summary import CaseSummaryd
from .corruption import PresegmentationCorruption
from .fresh_phantom import RandPhantomd
from .label_values import LabelValuesd, LeaveOutUnlabeledd, named_values
from .largest_component import LargestComponentd
from .outputs import EnsembleMapsd, SplitOutputd
from .presegmentation import LoadPresegmentationd
from .save_maps import SaveImageMapsd
from .segmentation_metrics import SegmentationMetricsd
from .spacing import Spacingd

__all__ = [
    "CaseSummaryd",
    "EnsembleMapsd",
    "LabelValuesd",
    "LargestComponentd",
    "LeaveOutUnlabeledd",
    "LoadPresegmentationd",
    "PresegmentationCorruption",
    "RandPhantomd",
    "SaveImageMapsd",
    "SegmentationMetricsd",
    "Spacingd",
    "SplitOutputd",
    "named_values",
]
