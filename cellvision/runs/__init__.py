"""Runs in Python: what a stage returns, and what `cellvision.open` opens."""
