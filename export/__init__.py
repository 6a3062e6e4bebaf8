"""A run folder to one graph that is proven as good as the ensemble; writes the artifact folder."""
