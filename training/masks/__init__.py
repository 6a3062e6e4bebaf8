"""Fixations to heatmaps, refined maps and pseudo-masks."""
