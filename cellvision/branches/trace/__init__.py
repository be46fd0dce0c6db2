"""Time traces of cells."""
