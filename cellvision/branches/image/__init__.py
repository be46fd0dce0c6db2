"""Crops of a segment run."""
