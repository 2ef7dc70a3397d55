"""Dictionary transforms that MONAI lacks, and the corruption of presegmentations."""

from .annotations import RandAnnotationd
from .case_summary import CaseSummaryd
from .corruption import PresegmentationCorruption
from .cross_fitting import CrossFittedPresegmentationd
from .dicom_seg import SaveDicomSegd
from .label_values import LabelValuesd
from .outputs import InvertMembersd, SplitOutputd, Uncertaintyd
from .segmentation_metrics import SegmentationMetricsd
from .spacing import Spacingd

__all__ = [
    "CaseSummaryd",
    "CrossFittedPresegmentationd",
    "InvertMembersd",
    "LabelValuesd",
    "PresegmentationCorruption",
    "RandAnnotationd",
    "SaveDicomSegd",
    "SegmentationMetricsd",
    "Spacingd",
    "SplitOutputd",
    "Uncertaintyd",
]
