"""Metrics of a probabilistic segmentation: mask, probabilities, and the summary over cases."""

from monai_pdddpm.metrics.calibration import near_structure
from monai_pdddpm.metrics.lesions import lesion_metrics
from monai_pdddpm.metrics.segmentation import segmentation_metrics
from monai_pdddpm.metrics.summary import as_table, case_rows, summarize
from monai_pdddpm.utils.probabilities import mutual_information

__all__ = [
    "as_table",
    "case_rows",
    "lesion_metrics",
    "mutual_information",
    "near_structure",
    "segmentation_metrics",
    "summarize",
]
