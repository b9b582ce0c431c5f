"""Weights apart from runs: the native file, published files, and what opens any of them."""
