"""Gaze to heatmap to CRF to pseudo-masks to m peer networks; writes the run folder."""
