"""The input path: sources -> decode -> host transforms -> batches. Imports numpy, Pillow and grain, never jax."""
