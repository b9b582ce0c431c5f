"""The pre-norm Transformer block and the stack of them: the one place that scans and rematerialises."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mae_jax.core import gather, tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.mesh import shard
from mae_jax.nets.attention import Attention, Bias
from mae_jax.nets.compute import Compute
from mae_jax.nets.layers import Initializer, LayerNorm, dense, gelu, xavier
from mae_jax.nets.remat import policy


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The shape of a stack of blocks, and how it runs: said once, handed to every module inside.

    Attributes:
      dim, depth, heads: width, number of blocks, attention heads (which divide the width).
      mlp_ratio: hidden width of the MLP over `dim`.
      qkv_bias, qk_scale: of attention (nets/attention.py).
      norm_eps: of every layer norm.
      layer_scale: what the factors `gamma1`, `gamma2` of the two branches start from; None: there are none (CaiT).
      activation: of the MLP: "gelu", exact; "gelu_tanh", its tanh approximation (Flax's default); "quick_gelu",
        x sigmoid(1.702 x) (CLIP).
      kernel_init: of every linear layer.
      cosine: whether attention goes by cosines (nets/attention.py).
    """

    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    qkv_bias: Bias = True
    qk_scale: float | None = None
    norm_eps: float = 1e-6
    layer_scale: float | None = None
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    kernel_init: Initializer = xavier
    cosine: bool = False
    compute: Compute = Compute()


def check_width(dim: int, heads: int, axes: int = 0, part: str = "") -> None:
    """Raise UserError unless method.{part}heads divides method.{part}dim, and sin-cos positions on `axes` axes fit."""
    if dim % heads or (axes and dim % (2 * axes)):
        positions = f" and, for the sin-cos positions on {axes} axes, of {2 * axes}" if axes else ""
        raise UserError(f"method.{part}dim={dim} must be a multiple of method.{part}heads={heads}{positions}.")


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


class Mlp(nn.Module):
    """Two linear layers with an activation between, by default an exact (erf) GELU."""

    hidden: int
    dtype: Any = jnp.float32
    activation: str = "gelu"
    kernel_init: Initializer = xavier
    fp8: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        y = dense(self.hidden, "fc1", self.dtype, kernel_init=self.kernel_init, fp8=self.fp8)(x)
        y = ACTIVATIONS[self.activation](y)
        return dense(x.shape[-1], "fc2", self.dtype, kernel_init=self.kernel_init, fp8=self.fp8)(y)


class Residual(nn.Module):
    """x + gamma * y: the end of every branch.

    `layer_scale` is where the factor `gamma` starts (None: no factor); `drop` [b] multiplies the branch per sample.
    """

    layer_scale: float | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], y: Float[Array, "b n d"], drop: Float[Array, " b"] | None = None
    ) -> Float[Array, "b n d"]:
        if self.layer_scale is not None:
            gamma = self.param("gamma", nn.initializers.constant(self.layer_scale), (x.shape[-1],))
            y = y * gamma[None, None].astype(y.dtype)
        return x + (y if drop is None else y * drop[:, None, None].astype(y.dtype))


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
        bias: Float[Array, "#b #h n n"] | None = None,
    ) -> Float[Array, "b n d"]:
        s, dtype = self.shape, self.shape.compute.dtype
        x = shard(x)
        norm = partial(LayerNorm, s.norm_eps, dtype, s.compute.norm)
        x, y = norm(name="norm1").fork(x)
        attention, fp8 = s.compute.attention, s.compute.fp8
        y = Attention(
            s.heads, s.qkv_bias, s.qk_scale, dtype, s.kernel_init, s.cosine, attention, fp8, name="attn"
        )(y, valid, bias)  # fmt: skip
        x = Residual(s.layer_scale, name="scale1")(x, y, None if drop is None else drop[:, 0])
        x, y = norm(name="norm2").fork(x)
        y = Mlp(int(s.dim * s.mlp_ratio), dtype, s.activation, s.kernel_init, fp8, name="mlp")(y)
        return Residual(s.layer_scale, name="scale2")(x, y, None if drop is None else drop[:, 1])


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
        bias: Float[Array, "#b #h n n"] | None = None,
    ) -> tuple[Float[Array, "b n d"], tuple[Float[Array, "b n d"], ...]]:
        """Return (the last block's output, every block's output); what nobody reads of these costs nothing."""
        drops = None if drop is None else drop.swapaxes(0, 1)
        return run_blocks(
            self, partial(Block, self.shape), lambda block, x, drop: block(x, valid, drop, bias), self.shape, x, drops
        )


def run_blocks(
    stack: nn.Module,
    make: Callable[..., nn.Module],
    call: Callable[..., Array],
    shape: Transformer,
    x: Array,
    each: Any = None,
) -> tuple[Array, tuple[Array, ...]]:
    """`x` through equal blocks, the children "0", "1", ... of `stack` -> (the last output, every output).

    Args:
      make: builds a block: `make(name=...)`.
      call: (block, x, what this block gets of `each`) -> its output.
      shape: says how many blocks there are and how they run.
      each: something of its own for every block: a tree of arrays, blocks along the first axis.
    """
    depth, compute = shape.depth, shape.compute
    own = lambda i: jax.tree.map(lambda a: a[i], each)
    if stack.is_initializing():
        hidden = []
        for i in range(depth):
            x = call(make(name=str(i)), x, own(i))
            hidden.append(x)
        return x, tuple(hidden)
    if depth == 0:
        return x, ()
    block = make(parent=None)
    layers = [stack.variables["params"][str(i)] for i in range(depth)]
    split = [gather.parts(layer) for layer in layers][0]  # all layers lie alike

    def run(params, x, mine):
        params = gather.whole(params, split, compute.dtype)
        return call(partial(block.apply, {"params": params}), x, mine)

    if compute.remat != "none":
        run = jax.checkpoint(run, policy=policy(compute))
    layers = [_in_compute_dtype(layer, compute.dtype, split) for layer in layers]
    if compute.scan:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

        def one(x, layer):
            x = run(layer[0], x, layer[1])
            return x, x

        x, every = jax.lax.scan(one, x, (stacked, each))
        return x, tuple(every[i] for i in range(depth))
    hidden = []
    for i, layer in enumerate(layers):
        x = run(layer, x, own(i))
        hidden.append(x)
    return x, tuple(hidden)


def _in_compute_dtype(layer, dtype, split):
    """Matmul weights in the dtype that they are used in; norms' vectors, and what is still `split`, stay float32."""
    cast = lambda path, w: w.astype(dtype) if w.ndim > 1 and path not in split else w
    return tree.map_with_path(cast, layer)


def drop_path(noise: Float[Array, "b depth k"], rate: float) -> Float[Array, "b depth k"]:
    """Multipliers of the residual branches from U[0, 1): rate 0 at the first block, `rate` at the last."""
    depth = noise.shape[1]
    keep = 1 - jnp.linspace(0.0, rate, depth)[None, :, None]
    return jnp.where(noise < keep, 1 / keep, 0.0)


def drop_paths(
    ctx: Context | None,
    compute: Compute,
    depth: int,
    b: int,
    train: bool,
    *,
    branches: int = 2,
    name: str = "drop_path",
) -> Float[Array, "b depth branches"] | None:
    """The multipliers of `Method.encode` in training: drawn per row of the global batch; None where nothing drops."""
    if ctx is None or not train or not compute.drop_path:
        return None
    return drop_path(ctx.uniform(name, (b, depth, branches)), compute.drop_path)
