"""Pixel targets, raw or normalised per token, and the way back to an image."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def token_stats(
    target: Float[Array, "b n p"], eps: float = 1e-6, unbiased: bool = True
) -> tuple[Float[Array, "b n 1"], Float[Array, "b n 1"]]:
    """Mean and sqrt(var + eps) of each token's values.

    Args:
      eps: added to the variance, inside the root (facebookresearch/mae).
      unbiased: divide by p - 1, as facebookresearch/mae does (torch's default), or by p.
    """
    mean = target.mean(axis=-1, keepdims=True)
    var = target.var(axis=-1, keepdims=True, ddof=1 if unbiased else 0)
    return mean, jnp.sqrt(var + eps)


def normalise(target: Float[Array, "b n p"], eps: float = 1e-6, unbiased: bool = True) -> Float[Array, "b n p"]:
    """Each token to zero mean and unit variance over its own values (MAE, Sec. 4.1, "norm_pix")."""
    mean, std = token_stats(target, eps, unbiased)
    return (target - mean) / std


def paint(
    tokens: Float[Array, "b n p"],
    pred: Float[Array, "b n p"],
    hidden: Bool[Array, "b n"],
    *,
    normalised: bool = False,
    unbiased: bool = True,
) -> dict[str, Float[Array, "b n p"]]:
    """The four pictures of a reconstruction, as tokens in pixel space.

    "masked" holds 0, the mean colour after normalisation, where a token is hidden.

    Args:
      normalised: the prediction is of normalised tokens (`unbiased` as they were): colour it by each one's true mean
        and deviation.
    """
    if normalised:
        mean, std = token_stats(tokens, unbiased=unbiased)
        pred = pred * std + mean
    gone = hidden[:, :, None]
    return {
        "original": tokens,
        "masked": jnp.where(gone, 0.0, tokens),
        "reconstruction": pred,
        "pasted": jnp.where(gone, pred, tokens),
    }
