"""Gaze in, served segmentation models out."""

__version__ = "0.1.0"
