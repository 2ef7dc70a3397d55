"""Metrics of a probabilistic segmentation: mask, probabilities, members, and the summary over cases."""

from monai_pdddpm.metrics.calibration import near_structure
from monai_pdddpm.metrics.lesions import lesion_metrics
from monai_pdddpm.metrics.ranking import area_under_risk_coverage
from monai_pdddpm.metrics.samples import crps, disagreement_ratio, generalized_energy_distance, volume_z
from monai_pdddpm.metrics.segmentation import segmentation_metrics
from monai_pdddpm.metrics.summary import as_table, case_rows, summarize
from monai_pdddpm.utils.probabilities import mutual_information

__all__ = [
    "area_under_risk_coverage",
    "as_table",
    "case_rows",
    "crps",
    "disagreement_ratio",
    "generalized_energy_distance",
    "lesion_metrics",
    "mutual_information",
    "near_structure",
    "segmentation_metrics",
    "summarize",
    "volume_z",
]
