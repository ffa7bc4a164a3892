"""Measurements by hand: what Blink costs at the true width of its backbones. Run from the repository's root."""
