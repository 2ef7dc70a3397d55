"""Scripts that stand behind what the documents claim."""
