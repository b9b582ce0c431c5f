"""Pixel targets, raw or normalised per token, and the way back to an image."""

from collections.abc import Sequence

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


def unit(x: Float[Array, "*b c"], mean: Sequence[float], std: Sequence[float]) -> Float[Array, "*b c"]:
    """Normalised pixels back to [0, 1]; `mean` and `std` are per channel, or one number for all."""
    shape = (1,) * (x.ndim - 1) + (-1,)
    return x * jnp.asarray(std, x.dtype).reshape(shape) + jnp.asarray(mean, x.dtype).reshape(shape)


def channel_stats(
    target: Float[Array, "b n p"], channels: int, eps: float = 1e-6
) -> tuple[Float[Array, "b n p"], Float[Array, "b n p"]]:
    """Mean and unbiased deviation + eps of each token's values of each channel, repeated over its values (VideoMAE).

    Channels are fastest inside a token; the epsilon lies outside the root, unlike `token_stats`'.
    """
    values = target.reshape(*target.shape[:2], -1, channels)
    mean = values.mean(axis=2, keepdims=True)
    # The gradient of a root at 0 is infinite: a flat patch's deviation is 0 without one.
    var = values.var(axis=2, keepdims=True, ddof=1)
    std = jnp.where(var > 0, jnp.sqrt(jnp.where(var > 0, var, 1.0)), 0.0) + eps
    wide = lambda x: jnp.broadcast_to(x, values.shape).reshape(target.shape)
    return wide(mean), wide(std)


def normalise_channels(target: Float[Array, "b n p"], channels: int, eps: float = 1e-6) -> Float[Array, "b n p"]:
    """Each token's values to zero mean and unit variance, channel by channel (VideoMAE; MAE takes them together)."""
    mean, std = channel_stats(target, channels, eps)
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


def unit_prediction(
    tokens: Float[Array, "b n p"],
    pred: Float[Array, "b n p"],
    mean: Sequence[float],
    std: Sequence[float],
    channels: int,
    *,
    normalised: bool,
) -> Float[Array, "b n p"]:
    """A prediction of pixels in [0, 1], or normalised by `normalise_channels`, in the space of the input's `tokens`.

    Args:
      tokens: normalised pixels; each one's true mean and deviation colour a normalised prediction.
      mean, std: what they were normalised by.
    """
    each = (*tokens.shape[:2], -1, channels)
    if normalised:
        centre, spread = channel_stats(unit(tokens.reshape(each), mean, std).reshape(tokens.shape), channels)
        pred = pred * spread + centre
    shift, scale = (jnp.asarray(x, pred.dtype).reshape(1, 1, 1, -1) for x in (mean, std))
    return ((pred.reshape(each) - shift) / scale).reshape(tokens.shape)
