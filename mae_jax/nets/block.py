"""The pre-norm Transformer block and the stack of them: the one place that scans and rematerialises."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mae_jax.core.mesh import shard
from mae_jax.nets.attention import Attention
from mae_jax.nets.compute import Compute
from mae_jax.nets.layers import LayerNorm, dense


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The shape of a stack of blocks, and how it runs: said once, handed to every module inside.

    Attributes:
      dim, depth, heads: width, number of blocks, attention heads (which divide the width).
      mlp_ratio: hidden width of the MLP over `dim`.
      qkv_bias, qk_scale: of attention (nets/attention.py).
      norm_eps: of every layer norm.
    """

    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: float | None = None
    norm_eps: float = 1e-6
    compute: Compute = Compute()


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        y = dense(self.hidden, "fc1", self.dtype)(x)
        return dense(x.shape[-1], "fc2", self.dtype)(jax.nn.gelu(y, approximate=False))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (ViT, Eqs. 2 and 3).

    `drop` multiplies the two branches per sample: 0 drops a path, 1 / keep probability keeps it.
    """

    shape: Transformer

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        valid: Bool[Array, "b n"] | None = None,
        drop: Float[Array, "b 2"] | None = None,
    ) -> Float[Array, "b n d"]:
        s, dtype = self.shape, self.shape.compute.dtype
        x = shard(x)
        y = LayerNorm(s.norm_eps, dtype, name="norm1")(x)
        y = Attention(s.heads, s.qkv_bias, s.qk_scale, dtype, name="attn")(y, valid)
        x = x + (y if drop is None else y * drop[:, 0, None, None].astype(dtype))
        y = LayerNorm(s.norm_eps, dtype, name="norm2")(x)
        y = Mlp(int(s.dim * s.mlp_ratio), dtype, name="mlp")(y)
        return x + (y if drop is None else y * drop[:, 1, None, None].astype(dtype))


class Stack(nn.Module):
    """`depth` equal blocks. Parameters lie per layer ("0/...", "1/...") whether they run scanned or not.

    Scanning stacks the layers' weights inside the step, in compute precision, so that optimizers, decay rules,
    checkpoints and name maps only ever see one array per layer.
    """

    shape: Transformer

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        valid: Bool[Array, "b n"] | None = None,
        drop: Float[Array, "b depth 2"] | None = None,
    ) -> Float[Array, "b n d"]:
        depth, compute = self.shape.depth, self.shape.compute
        if self.is_initializing():
            for i in range(depth):
                x = Block(self.shape, name=str(i))(x, valid)
            return x
        if depth == 0:
            return x
        block = Block(self.shape, parent=None)

        def run(params, x, drop):
            return block.apply({"params": params}, x, valid, drop)

        if compute.remat != "none":
            run = jax.checkpoint(run, policy=_POLICIES[compute.remat])
        params = self.variables["params"]
        layers = [_in_compute_dtype(params[str(i)], compute.dtype) for i in range(depth)]
        drops = None if drop is None else drop.swapaxes(0, 1)
        if compute.scan:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
            x, _ = jax.lax.scan(lambda x, layer: (run(layer[0], x, layer[1]), None), x, (stacked, drops))
            return x
        for i, layer in enumerate(layers):
            x = run(layer, x, None if drops is None else drops[i])
        return x


_POLICIES = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}


def _in_compute_dtype(layer, dtype):
    """Matmul weights in the dtype that they are used in; norms' vectors stay float32."""
    return jax.tree.map(lambda w: w.astype(dtype) if w.ndim > 1 else w, layer)


def drop_path(noise: Float[Array, "b depth 2"], rate: float) -> Float[Array, "b depth 2"]:
    """Multipliers of the residual branches from U[0, 1): rate 0 at the first block, `rate` at the last."""
    depth = noise.shape[1]
    keep = 1 - jnp.linspace(0.0, rate, depth)[None, :, None]
    return jnp.where(noise < keep, 1 / keep, 0.0)
