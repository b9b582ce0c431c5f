"""mae_jax: self-supervised pretraining by masking, on JAX."""

__version__ = "0.1.0"
