"""Cross entropy with integer labels and with soft targets."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def soft_cross_entropy(logits: Float[Array, "*b c"], targets: Float[Array, "*b c"]) -> Float[Array, "*b"]:
    """Return -sum_c targets * log_softmax(logits) per sample: logits, targets [..., classes] -> [...], in
    float32.

    The targets are probabilities (mixup, label smoothing); they are not renormalised.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.sum(targets.astype(jnp.float32) * log_probabilities, axis=-1)


def cross_entropy(logits: Float[Array, "*b c"], labels: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Return -log_softmax(logits)[label] per sample: logits [..., classes], labels [...] int -> [...], in
    float32.
    """
    classes = logits.shape[-1]
    return soft_cross_entropy(logits, jax.nn.one_hot(labels, classes, dtype=jnp.float32))
