"""Video: frames decoded, segmented, steadied over time, and written as masks and an overlay film."""
