"""Engines: how a run goes over its cases."""

from .case_evaluator import CaseEvaluator

__all__ = ["CaseEvaluator"]
