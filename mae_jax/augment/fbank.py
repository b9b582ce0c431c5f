"""Waveforms on the device: shifted, louder, mixed, and as log-mel filter banks.

The tables are those of data/fbank.py: Front, which is given as arrays, so that this room imports nothing of data.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mae_jax.core.keys import Context


def fbank(
    waveform: Float[Array, "b s"],
    hann: np.ndarray,
    filters: np.ndarray,
    step: int,
    preemphasis: float,
    eps: float,
) -> Float[Array, "b t mels"]:
    """Log-mel energies of every whole frame; as data/fbank.py: fbank.

    Args:
      hann: window [length]. filters: [fft / 2 + 1, mels]. step: samples from frame to frame.
      eps: the least energy that a logarithm is taken of.
    """
    length = len(hann)
    count = 1 + (waveform.shape[1] - length) // step
    frames = waveform[:, step * np.arange(count)[:, None] + np.arange(length)]  # [b, t, length]
    frames = frames - frames.mean(axis=2, keepdims=True)
    before = jnp.concatenate([frames[:, :, :1], frames[:, :, :-1]], axis=2)
    frames = (frames - preemphasis * before) * hann[None, None]
    spectrum = jnp.fft.rfft(frames, 2 * (len(filters) - 1))
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    return jnp.log(jnp.maximum(jnp.matmul(power, filters, precision="highest"), eps))


def whole_frames(samples: Int[Array, " b"], length: int, step: int) -> Int[Array, " b"]:
    """How many frames of `length` fit into so many samples."""
    return jnp.where(samples < length, 0, 1 + (samples - length) // step)


def fitted(
    features: Float[Array, "b t m"], frames: int, valid: Int[Array, " b"], lowest: bool
) -> Float[Array, "b {frames} m"]:
    """Cut, or filled up behind each sample's `valid` frames: with its own least value (`lowest`) or with 0."""
    x = features[:, :frames]
    real = (jnp.arange(x.shape[1])[None] < valid[:, None])[:, :, None]
    fill = jnp.where(real, x, jnp.inf).min(axis=(1, 2), keepdims=True) if lowest else jnp.zeros((len(x), 1, 1))
    x = jnp.where(real, x, fill)
    short = frames - x.shape[1]
    return x if short <= 0 else jnp.concatenate([x, jnp.broadcast_to(fill, (len(x), short, x.shape[2]))], axis=1)


def roll(waveform: Float[Array, "b s"], samples: Int[Array, " b"], u: Float[Array, " b"]) -> Float[Array, "b s"]:
    """The first `samples` of each turned round by a share u of them; what is behind stays."""
    at, n = jnp.arange(waveform.shape[1])[None], samples[:, None]
    turned = (at - (u * samples).astype(jnp.int32)[:, None]) % jnp.maximum(n, 1)
    return jnp.take_along_axis(waveform, jnp.where(at < n, turned, at), axis=1)


def gain(ctx: Context, name: str, waveform: Float[Array, "b s"], alpha: float) -> Float[Array, "b s"]:
    """Each times Beta(alpha, alpha) + 0.5 (Audio-MAE: alpha 10)."""
    rows = jnp.arange(len(waveform)) if ctx.rows is None else ctx.rows
    key = ctx.key(name)
    beta = jax.vmap(lambda row: jax.random.beta(jax.random.fold_in(key, row), alpha, alpha))(rows)
    return waveform * (beta + 0.5)[:, None]


def mixture(
    ctx: Context, name: str, waveform: Float[Array, "b s"], p: float, snr: tuple[float, float], clips: int
) -> Float[Array, "b s"]:
    """With probability p, 1 to `clips` others of the batch are added to each, each at its own ratio of powers.

    The other clips are the neighbours in the batch, so that the mixture is a shift of the rows.

    Args:
      snr: range of the ratio of a clip's power to an added one's, dB, drawn uniformly.
    """
    u = ctx.uniform(name, (len(waveform), 2 + clips))
    count = jnp.where(u[:, 0] < p, 1 + jnp.floor(u[:, 1] * clips), 0.0)
    power = jnp.square(waveform).mean(axis=1)
    out = waveform
    for i in range(clips):
        other, theirs = jnp.roll(waveform, i + 1, axis=0), jnp.roll(power, i + 1)
        db = snr[0] + (snr[1] - snr[0]) * u[:, 2 + i]
        scale = jnp.sqrt(power / jnp.maximum(theirs, 1e-12) / 10 ** (db / 10))
        out = out + jnp.where(i < count, scale, 0.0)[:, None] * other
    return out


def mask_lines(
    x: Float[Array, "b t m"], u: Float[Array, "b 3"], axis: int, width: int, p: float, value: float = 0.0
) -> Float[Array, "b t m"]:
    """SpecAug (Park et al. 2019): with probability p a band of at most `width` lines becomes `value`.

    The law is torchaudio's: a real width U(0, width), a real start U(0, n - width), both rounded down.
    """
    n = x.shape[axis]
    wide = u[:, 0] * width
    start = jnp.floor(u[:, 1] * jnp.maximum(n - wide, 0.0))
    at = jnp.arange(n)[None]
    inside = (at >= start[:, None]) & (at < start[:, None] + jnp.floor(wide)[:, None]) & (u[:, 2] < p)[:, None]
    return jnp.where(jnp.expand_dims(inside, 3 - axis), value, x)
