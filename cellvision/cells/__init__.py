"""An image to its cells: what is seen, measured, flagged, left out, matched and cut."""
