"""Gaze files of any tracker, to fixations."""
