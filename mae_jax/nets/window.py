"""Attention inside windows of a grid, and a decoder of such blocks (Swin v2 as Audio-MAE and Bird-MAE use it).

Audio-MAE, Huang et al. 2022, Sec. 3.2 and its code: windows of 4 x 4, every other block's shifted by half a window in
time alone, cosine attention, positions by a small network of the offsets, norms at the end of the branches.
"""

import math
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mae_jax.core.mesh import shard
from mae_jax.core.types import Mask
from mae_jax.nets.block import Mlp, Residual, Transformer, run_blocks
from mae_jax.nets.layers import LayerNorm, constant, dense, token_init
from mae_jax.tokens import positions
from mae_jax.tokens.gather import restore

Kind = Literal["early", "v2"]
HIDDEN = {"early": 384, "v2": 512}  # of the network that makes positions
DROPOUT = 0.1  # in that network, in training ("early")
APART = -100.0  # added to the logit of a pair that the shift brought together


class Windows:
    """How windows lie on a grid of (rows, columns). An axis no longer than its window is one window, and not shifted.

    Attributes:
      padded: the grid with its rows filled up to whole windows.
      window, shift: along each axis.
    """

    def __init__(self, grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]):
        self.grid = grid
        self.window = (min(grid[0], window[0]), min(grid[1], window[1]))
        self.padded = (-(-grid[0] // self.window[0]) * self.window[0], grid[1])
        self.shift = tuple(0 if n <= w else s for n, w, s in zip(self.padded, self.window, shift))
        if grid[1] % self.window[1]:
            raise ValueError(f"windows {window} do not divide the columns of grid {grid}")

    @property
    def area(self) -> int:
        return math.prod(self.window)

    @property
    def count(self) -> int:
        return math.prod(self.padded) // self.area

    def cut(self, x: Float[Array, "b n d"]) -> Float[Array, "b w m d"]:
        """Tokens of the padded grid in raster order -> windows of tokens."""
        (rows, columns), (h, w) = self.padded, self.window
        x = x.reshape(len(x), rows // h, h, columns // w, w, -1)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), self.count, self.area, -1)

    def join(self, x: Float[Array, "b w m d"]) -> Float[Array, "b n d"]:
        """The inverse of `cut`."""
        (rows, columns), (h, w) = self.padded, self.window
        x = x.reshape(len(x), rows // h, columns // w, h, w, -1)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), rows * columns, -1)

    def roll(self, x: Float[Array, "b n d"], sign: int) -> Float[Array, "b n d"]:
        """The grid turned by the shift, towards its start where `sign` is -1."""
        b, _, d = x.shape
        y = x.reshape(b, *self.padded, d)
        for axis, s in enumerate(self.shift, 1):
            y = jnp.roll(y, sign * s, axis) if s else y
        return y.reshape(b, -1, d)

    def mask(self) -> np.ndarray:
        """[w, m, m]: APART for pairs that are no neighbours before the shift, 0 for others."""
        label = np.zeros(self.padded, np.int32)
        for axis, (n, w, s) in enumerate(zip(self.padded, self.window, self.shift)):
            part = np.searchsorted([n - w, n - s], np.arange(n), side="right") if s else np.zeros(n, np.int32)
            label = 3 * label + np.expand_dims(part, 1 - axis)
        (rows, columns), (h, w) = self.padded, self.window
        label = label.reshape(rows // h, h, columns // w, w).transpose(0, 2, 1, 3).reshape(self.count, self.area)
        return np.where(label[:, :, None] != label[:, None, :], np.float32(APART), np.float32(0.0))


def offsets(window: tuple[int, int], kind: Kind) -> np.ndarray:
    """[m m, 2]: what the network of positions reads of every pair: query minus key, on a logarithmic scale."""
    at = np.indices(window).reshape(2, -1)
    d = (at[:, :, None] - at[:, None, :]).transpose(1, 2, 0).reshape(-1, 2).astype(np.float64)
    if kind == "early":
        return (np.sign(d) * np.log(1 + np.abs(d))).astype(np.float32)
    d = 8 * d / np.maximum(np.array(window) - 1, 1)
    return (np.sign(d) * np.log2(1 + np.abs(d)) / np.log2(8)).astype(np.float32)


class WindowAttention(nn.Module):
    """Cosine attention among the tokens of each window, every head with its own temperature.

    Attributes:
      heads: number of heads.
      windows: their shape, and which pairs the shift brought together.
      kind: "early", timm's first port of Swin v2, as published: cos / max(temperature, 0.01) + bias, biases in qkv, a
        bias of any size; "v2": cos exp(min(temperature, log 100)) + 16 sigmoid(bias), no biases in qkv (in Bird-MAE's
        code they are there, but without effect).
    """

    heads: int
    windows: Windows
    kind: Kind = "early"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b w m d"], shifted: Bool[Array, ""], key: Array | None = None
    ) -> Float[Array, "b w m d"]:
        """`key`: of the dropout in the network of positions; None: none."""
        b, w, m, d = x.shape
        qkv = dense(3 * d, "qkv", self.dtype, use_bias=self.kind == "early")(x)
        q, k, v = qkv.reshape(b, w, m, 3, self.heads, d // self.heads).transpose(3, 0, 1, 4, 2, 5)
        early = self.kind == "early"
        start = nn.initializers.ones if early else nn.initializers.constant(math.log(10))
        tau = self.param("temperature", start, (self.heads,)).reshape(1, 1, -1, 1, 1)
        logits = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32)
        if early:
            logits = logits / jnp.maximum(_length(q) * _length(k).swapaxes(-1, -2), 1e-6) / jnp.maximum(tau, 0.01)
        else:
            logits = logits / (_length(q, 1e-12) * _length(k, 1e-12).swapaxes(-1, -2))
            logits = logits * jnp.exp(jnp.minimum(tau, math.log(100)))
        logits = logits + self._positions(key)[None, None]
        logits = logits + jnp.where(shifted, self.windows.mask(), 0.0)[None, :, None]
        out = jnp.matmul(jax.nn.softmax(logits, axis=-1).astype(v.dtype), v)
        return dense(d, "proj", self.dtype)(out.swapaxes(2, 3).reshape(b, w, m, d))

    def _positions(self, key: Array | None) -> Float[Array, "h m m"]:
        """A bias for every pair, in float32: 2 -> HIDDEN -> heads, with a ReLU between."""
        hidden, drop = HIDDEN[self.kind], [None, None] if key is None else jax.random.split(key)
        x = jnp.asarray(offsets(self.windows.window, self.kind))
        x = _dropout(jax.nn.relu(dense(hidden, "position_fc1", jnp.float32)(x)), drop[0])
        x = _dropout(dense(self.heads, "position_fc2", jnp.float32, use_bias=self.kind == "early")(x), drop[1])
        bias = x.T.reshape(self.heads, self.windows.area, self.windows.area)
        return bias if self.kind == "early" else 16 * jax.nn.sigmoid(bias)


def _length(x: Float[Array, "*b c"], least: float = 0.0) -> Float[Array, "*b 1"]:
    """|x| in float32, with a gradient of 0 at 0."""
    square = jnp.square(x.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    return jnp.maximum(jnp.sqrt(jnp.maximum(square, 1e-30)), least)


def _dropout(x: Float[Array, "*b c"], key: Array | None) -> Float[Array, "*b c"]:
    if key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - DROPOUT, x.shape), x / (1 - DROPOUT), 0.0)


class WindowBlock(nn.Module):
    """x + norm(attention(x)), then x + norm(mlp(x)): the norms stand at the end of the branches."""

    shape: Transformer
    windows: Windows
    kind: Kind = "early"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], shifted: Bool[Array, ""], key: Array | None = None
    ) -> Float[Array, "b n d"]:
        s, dtype, win = self.shape, self.shape.compute.dtype, self.windows
        eps = s.norm_eps if self.kind == "early" else 1e-5  # the v2 blocks get torch's own default
        x = shard(x)
        y = jnp.where(shifted, win.roll(x, -1), x) if any(win.shift) else x
        y = win.join(WindowAttention(s.heads, win, self.kind, dtype, name="attn")(win.cut(y), shifted, key))
        y = jnp.where(shifted, win.roll(y, 1), y) if any(win.shift) else y
        x = Residual(name="scale1")(x, LayerNorm(eps, dtype, name="norm1")(y))
        y = Mlp(int(s.dim * s.mlp_ratio), dtype, s.activation, s.kernel_init, name="mlp")(x)
        return Residual(name="scale2")(x, LayerNorm(eps, dtype, name="norm2")(y))


class WindowStack(nn.Module):
    """Blocks of which every other one is shifted; the first is not."""

    shape: Transformer
    windows: Windows
    kind: Kind = "early"

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], key: Array | None = None) -> Float[Array, "b n d"]:
        shifted = np.arange(self.shape.depth) % 2 == 1
        keys = None if key is None else jax.random.split(key, self.shape.depth)
        make = partial(WindowBlock, self.shape, self.windows, self.kind)
        x, _ = run_blocks(self, make, lambda block, x, own: block(x, *own), self.shape, x, (jnp.asarray(shifted), keys))
        return x


class WindowDecoder(nn.Module):
    """MAE's decoder with windowed blocks; no class token runs through it.

    Rows of the grid that fill no window are filled up with the last one, whose predictions are left out (Audio-MAE).

    Attributes:
      shape, out: as in nets/vit.py.
      window, shift: (rows, columns) of a window, and of the shift of every other block.
      positions, transposed: as in nets/vit.py.
    """

    shape: Transformer
    out: int
    window: tuple[int, int] = (4, 4)
    shift: tuple[int, int] = (2, 0)
    kind: Kind = "early"
    positions: Literal["sincos", "learned"] = "sincos"
    transposed: bool = False

    @nn.compact
    def __call__(
        self, latent: Float[Array, "b k e"], mask: Mask, grid: tuple[int, ...], key: Array | None = None
    ) -> Float[Array, "b n out"]:
        """`key`: of dropout in training."""
        dtype, windows = self.shape.compute.dtype, Windows((grid[0], grid[1]), self.window, self.shift)
        x = dense(self.shape.dim, "embed", dtype, kernel_init=self.shape.kernel_init)(latent)
        fill = self.param("mask_token", token_init, (1, 1, self.shape.dim)).astype(dtype)
        table = positions.sincos(self.shape.dim, grid, transposed=self.transposed)
        if self.positions == "learned":  # it has a row for the class token, as the plain decoder's
            start = constant(positions.with_prefix(table, 1)[None])
            pos = self.param("pos_embed", start, (1, 1 + len(table), self.shape.dim))[:, 1:]
        else:
            pos = jnp.asarray(table)[None]
        x = restore(x, mask, fill) + pos.astype(dtype)
        n, more = x.shape[1], windows.padded[0] - windows.grid[0]
        if more:
            x = jnp.concatenate([x, *(x[:, n - grid[1] :],) * more], axis=1)
        x = WindowStack(self.shape, windows, self.kind, name="blocks")(x, key)[:, :n]
        x = LayerNorm(self.shape.norm_eps, dtype, name="norm")(x)
        return dense(self.out, "pred", dtype, kernel_init=self.shape.kernel_init)(x).astype(jnp.float32)
