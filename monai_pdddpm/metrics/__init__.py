"""Metrics of a probabilistic segmentation: mask, probabilities, samples, ranking, and the summary over cases."""

from monai_pdddpm.metrics.annotators import (
    DiversityMetric,
    GeneralizedEnergyDistanceMetric,
    HungarianIoUMetric,
    diversity,
    generalized_energy_distance,
    hungarian_iou,
    pairwise_iou,
)
from monai_pdddpm.metrics.calibration import calibration_metrics, near_structure
from monai_pdddpm.metrics.lesions import lesion_metrics
from monai_pdddpm.metrics.ranking import (
    AreaUnderRiskCoverageMetric,
    NormalizedCrossCorrelationMetric,
    UncertaintyErrorOverlapMetric,
    area_under_risk_coverage,
    excess_aurc,
    normalized_cross_correlation,
    uncertainty_error_overlap,
)
from monai_pdddpm.metrics.segmentation import segmentation_metrics
from monai_pdddpm.metrics.summary import as_table, case_rows, summarise
from monai_pdddpm.metrics.uncertainty import mutual_information, predictive_entropy

__all__ = [
    "AreaUnderRiskCoverageMetric",
    "DiversityMetric",
    "GeneralizedEnergyDistanceMetric",
    "HungarianIoUMetric",
    "NormalizedCrossCorrelationMetric",
    "UncertaintyErrorOverlapMetric",
    "area_under_risk_coverage",
    "as_table",
    "calibration_metrics",
    "case_rows",
    "diversity",
    "excess_aurc",
    "generalized_energy_distance",
    "hungarian_iou",
    "lesion_metrics",
    "mutual_information",
    "near_structure",
    "normalized_cross_correlation",
    "pairwise_iou",
    "predictive_entropy",
    "segmentation_metrics",
    "summarise",
    "uncertainty_error_overlap",
]
