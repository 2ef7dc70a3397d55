"""Errors, atomic writing, ranks and provenance: the lowest layer."""
