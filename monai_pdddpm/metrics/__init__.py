"""Metrics of a probabilistic segmentation: the mask, the probabilities, and the summary over cases."""

from monai_pdddpm.metrics.calibration import calibration_metrics, near_structure
from monai_pdddpm.metrics.segmentation import segmentation_metrics
from monai_pdddpm.metrics.summary import as_table, case_rows, summarise
from monai_pdddpm.metrics.uncertainty import mutual_information, predictive_entropy

__all__ = [
    "as_table",
    "calibration_metrics",
    "case_rows",
    "mutual_information",
    "near_structure",
    "predictive_entropy",
    "segmentation_metrics",
    "summarise",
]
