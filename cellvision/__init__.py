"""cellvision: from folders of microscopy images to single-cell classifiers whose claims hold up."""

__version__ = "0.1.0"
