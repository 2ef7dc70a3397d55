"""Cost of whole volumes, and traces of their windows."""
