"""What every way to a segmentation with uncertainty costs, measured on the same cases in one run."""
