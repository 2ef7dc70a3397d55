"""Engines: how a run goes over its cases."""

from .case_evaluator import CaseEvaluator
from .prepare_batch import PrepareCase

__all__ = ["CaseEvaluator", "PrepareCase"]
