"""Accuracy and calibration of the answer, and whether the members are samples."""
