"""Cost of segmentation with uncertainty, for every contender on the same cases."""
