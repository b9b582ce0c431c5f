"""Message passing on padded graphs: the layers of GAT, GIN and GCN, and GraphMAE's encoder and decoder of them.

Gather, scatter-add and scatter-max per row are all that graphs need, so there is no jraph: archived in 2025, it would
be a dependency for three functions, and its graphs lie end to end along one axis, which no mesh can split by sample.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mae_jax.core.mesh import shard
from mae_jax.nets.compute import Compute
from mae_jax.nets.layers import BatchNorm, LayerNorm, dense, gelu, torch_linear
from mae_jax.nets.remat import policy

Kind = Literal["gat", "dotgat", "gin", "gcn"]
Norm = Literal["none", "layer", "batch"]
Activation = Literal["prelu", "relu", "elu", "gelu", "none"]
EDGE_BLOCK = 1 << 20  # edges whose messages are held at a time
Draw = Callable[[str, tuple[int, ...]], Array] | None  # U[0, 1) by name; None: nothing is dropped

relu_xavier = nn.initializers.variance_scaling(2.0, "fan_avg", "normal")  # Xavier normal times ReLU's gain, sqrt 2


# Graphs -----------------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Graph:
    """A row is a graph of up to n nodes and e edges.

    Attributes:
      senders, receivers: the two ends of every edge; a message goes from its sender to its receiver.
      edge_valid, node_valid: what is real; the rest is padding, whose ends may be any node.
    """

    senders: Int[Array, "b e"]
    receivers: Int[Array, "b e"]
    edge_valid: Bool[Array, "b e"]
    node_valid: Bool[Array, "b n"]

    @property
    def real(self) -> Float[Array, "b e 1"]:
        """1 at real edges."""
        return self.edge_valid[:, :, None].astype(jnp.float32)

    def thinned(self, scores: Float[Array, "b e"], rate: float) -> "Graph":
        """Drop the edges whose score is below `rate`, self-loops too; then give every node a self-loop (once more)."""
        own = jax.lax.broadcasted_iota(self.senders.dtype, self.node_valid.shape, 1)
        return Graph(
            jnp.concatenate([self.senders, own], axis=1),
            jnp.concatenate([self.receivers, own], axis=1),
            jnp.concatenate([self.edge_valid & (scores >= rate), self.node_valid], axis=1),
            self.node_valid,
        )


def per_edge(x: Float[Array, "b n *d"], ids: Int[Array, "b e"]) -> Float[Array, "b e *d"]:
    """What each edge reads at one of its ends."""
    return jax.vmap(lambda x, ids: x.at[ids].get(mode="clip"))(x, ids)


def per_node(values: Float[Array, "b e *d"], ids: Int[Array, "b e"], n: int) -> Float[Array, "b n *d"]:
    """The sum of the edges' values at one of their ends."""
    return jax.vmap(functools.partial(jax.ops.segment_sum, num_segments=n))(values, ids)


@jax.custom_vjp
def propagate(
    x: Float[Array, "b n h f"], weight: Float[Array, "b e h"], senders: Int[Array, "b e"], receivers: Int[Array, "b e"]
) -> Float[Array, "b n h f"]:
    """sum over the edges j -> i of weight_ij x_j, in float32.

    Its gradient is the same sum along the reversed edges, so nothing of size [e, h, f] is kept for it; and no more than
    EDGE_BLOCK edges' messages are held at a time (Reddit's 10^8 edges would take 235 GB at width 512).
    """

    def add(total, part):
        w, start, end = part
        return total + per_node(per_edge(x, start).astype(jnp.float32) * w[..., None], end, x.shape[1]), None

    return jax.lax.scan(add, jnp.zeros(x.shape, jnp.float32), edge_blocks(weight, senders, receivers))[0]


def edge_blocks(*arrays: Array) -> tuple[Array, ...]:
    """[b, e, ...] -> [blocks, b, at most EDGE_BLOCK, ...], filled up with zeros."""
    e = arrays[0].shape[1]
    blocks = -(-e // EDGE_BLOCK)
    size = -(-e // blocks)

    def cut(x):
        x = jnp.pad(x, [(0, 0), (0, blocks * size - e)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(x.shape[0], blocks, size, *x.shape[2:]).swapaxes(0, 1)

    return tuple(cut(x) for x in arrays)


def _propagate_forward(x, weight, senders, receivers):
    return propagate(x, weight, senders, receivers), (x, weight, senders, receivers)


def _propagate_backward(kept, g):
    x, weight, senders, receivers = kept

    def product(part):
        start, end = part
        return (per_edge(x, start).astype(jnp.float32) * per_edge(g, end)).sum(-1)

    d_weight = jax.lax.map(product, edge_blocks(senders, receivers)).swapaxes(0, 1)
    d_weight = d_weight.reshape(weight.shape[0], -1, weight.shape[2])[:, : weight.shape[1]]
    return propagate(g, weight, receivers, senders).astype(x.dtype), d_weight, None, None


propagate.defvjp(_propagate_forward, _propagate_backward)


def edge_softmax(logits: Float[Array, "b e h"], graph: Graph) -> Float[Array, "b e h"]:
    """Softmax over the edges that enter a node, in float32; 0 at padding."""
    n, ids = graph.node_valid.shape[1], graph.receivers
    logits = jnp.where(graph.edge_valid[:, :, None], logits.astype(jnp.float32), -1e30)
    top = jax.vmap(functools.partial(jax.ops.segment_max, num_segments=n))(jax.lax.stop_gradient(logits), ids)
    p = jnp.exp(logits - per_edge(top, ids)) * graph.real
    total = per_node(p, ids, n)
    # Not jnp.maximum(total, 1): at a node with a single edge the two tie, and that halves the gradient.
    return p / per_edge(jnp.where(total > 0, total, 1.0), ids)


# Layers -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Convolution:
    """What the layers of a network share.

    Attributes:
      kind: "gat" (Velickovic et al., 2018), "dotgat" (its attention a dot product), "gin" (Xu et al., 2019), "gcn"
        (Kipf and Welling, 2017).
      heads: of attention; they divide the width.
      norm, activation, residual: around every layer. A PReLU has one slope per layer.
      drop: share of a layer's input values that training drops. attention_drop: of attention coefficients.
      negative_slope: of the leaky ReLU in "gat".
    """

    kind: Kind
    heads: int = 1
    norm: Norm = "none"
    activation: Activation = "prelu"
    residual: bool = False
    drop: float = 0.0
    attention_drop: float = 0.0
    negative_slope: float = 0.2
    compute: Compute = Compute()


class Layer(nn.Module):
    """One layer of `out` features. Subclasses say `convolve`.

    Attributes:
      inner: whether norm and residual belong to it: not in a decoder.
      activate: whether the activation does.
    """

    out: int
    shape: Convolution
    inner: bool = True
    activate: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], graph: Graph, train: bool, draw: Draw) -> Float[Array, "b n e"]:
        x = dropout(shard(x), self.shape.drop, draw, f"{self.name}/features")
        y = self.convolve(x, graph, train, draw)
        if self.inner and self.shape.residual:
            y = y + (x if x.shape[-1] == self.out else self.linear("residual", use_bias=False)(x))
        return self.finish(y, graph, train)

    def convolve(self, x: Array, graph: Graph, train: bool, draw: Draw) -> Array:
        raise NotImplementedError

    def finish(self, y: Array, graph: Graph, train: bool) -> Array:
        """Norm, then activation."""
        if self.inner:
            y = normalise(self.shape, "norm", y, graph.node_valid, train)
        return Activate(self.shape.activation, name="act")(y) if self.activate else y

    def linear(self, name: str, out: int | None = None, use_bias: bool = True) -> nn.Module:
        return dense(out or self.out, name, self.shape.compute.dtype, use_bias=use_bias, kernel_init=torch_linear)


class GATLayer(Layer):
    """sum_j alpha_ij W x_j + b, with alpha_ij = softmax_j leaky_relu(a_source . W x_j + a_target . W x_i), per head."""

    def linear(self, name: str, out: int | None = None, use_bias: bool = True) -> nn.Module:
        return dense(out or self.out, name, self.shape.compute.dtype, use_bias=use_bias, kernel_init=relu_xavier)

    def convolve(self, x: Array, graph: Graph, train: bool, draw: Draw) -> Array:
        s, (b, n, _) = self.shape, x.shape
        h = self.linear("fc", use_bias=False)(x).reshape(b, n, s.heads, self.out // s.heads)
        source, target = HeadVector(name="source")(h), HeadVector(name="target")(h)
        logits = per_edge(source, graph.senders) + per_edge(target, graph.receivers)
        alpha = self.attend(nn.leaky_relu(logits, s.negative_slope), graph, draw)
        y = propagate(h, alpha, graph.senders, graph.receivers).astype(h.dtype).reshape(b, n, self.out)
        return y + self.param("bias", nn.initializers.zeros, (self.out,)).astype(h.dtype)[None, None]

    def attend(self, logits: Array, graph: Graph, draw: Draw) -> Array:
        return dropout(edge_softmax(logits, graph), self.shape.attention_drop, draw, f"{self.name}/attention")


class DotGATLayer(GATLayer):
    """GAT with alpha_ij = softmax_j (W x_i . W x_j / sqrt f), and no bias; as torch initialises."""

    linear = Layer.linear

    def convolve(self, x: Array, graph: Graph, train: bool, draw: Draw) -> Array:
        s, (b, n, _) = self.shape, x.shape
        h = self.linear("fc", use_bias=False)(x).reshape(b, n, s.heads, self.out // s.heads)
        pairs = per_edge(h, graph.senders).astype(jnp.float32) * per_edge(h, graph.receivers).astype(jnp.float32)
        alpha = self.attend(pairs.sum(-1) / (self.out // s.heads) ** 0.5, graph, draw)
        return propagate(h, alpha, graph.senders, graph.receivers).astype(h.dtype).reshape(b, n, self.out)


class GCNLayer(Layer):
    """D_in^-1/2 (A^T D_out^-1/2 x W + b): the bias, too, is divided by the root of the degree (GraphMAE's code)."""

    def convolve(self, x: Array, graph: Graph, train: bool, draw: Draw) -> Array:
        n = x.shape[1]
        given, got = (jnp.maximum(per_node(graph.real, ids, n), 1.0) for ids in (graph.senders, graph.receivers))
        y = propagate((x * given**-0.5)[:, :, None], graph.real, graph.senders, graph.receivers)[:, :, 0]
        return (self.linear("fc")(y.astype(x.dtype)) * got**-0.5).astype(x.dtype)


class GINLayer(Layer):
    """MLP((1 + eps) x + sum_j x_j): two linear layers, norm and activation between and after; then the residual.

    eps is 0 and fixed; it is among the statistics, because the published state dicts hold it.
    """

    def convolve(self, x: Array, graph: Graph, train: bool, draw: Draw) -> Array:
        s = self.shape
        eps = self.variable("stats", "eps", jnp.zeros, ()).value
        neighbours = propagate(x[:, :, None], graph.real, graph.senders, graph.receivers)[:, :, 0]
        y = ((1 + eps) * x + neighbours).astype(x.dtype)
        # The hidden width is the network's: that of x in a decoder, whose `out` is the input's.
        y = self.linear("fc1", self.out if self.inner else x.shape[-1])(y)
        y = Activate(s.activation, name="act1")(normalise(s, "norm1", y, graph.node_valid, train))
        y = self.linear("fc2")(y)
        return Layer.finish(self, y, graph, train)

    def finish(self, y: Array, graph: Graph, train: bool) -> Array:
        return y  # done before the residual


LAYERS: dict[str, type[Layer]] = {"gat": GATLayer, "dotgat": DotGATLayer, "gin": GINLayer, "gcn": GCNLayer}


class HeadVector(nn.Module):
    """a . h per head; Xavier normal with ReLU's gain over torch's fans of a (1, heads, f) tensor: heads f and f."""

    @nn.compact
    def __call__(self, h: Float[Array, "b n h f"]) -> Float[Array, "b n h"]:
        heads, f = h.shape[2:]
        init = nn.initializers.normal((4.0 / (heads * f + f)) ** 0.5)
        return jnp.einsum("bnhf,hf->bnh", h, self.param("kernel", init, (heads, f)).astype(h.dtype))


class Activate(nn.Module):
    """An activation by name; "prelu" has one learned slope."""

    kind: str

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        if self.kind == "prelu":
            slope = self.param("slope", nn.initializers.constant(0.25), (1,)).astype(x.dtype)
            return jnp.where(x >= 0, x, slope[None, None] * x)
        plain: dict[str, Callable[[Array], Array]] = {
            "relu": nn.relu,
            "elu": nn.elu,
            "gelu": gelu,
        }
        return plain[self.kind](x) if self.kind in plain else x


def normalise(s: Convolution, name: str, x: Array, valid: Array, train: bool) -> Array:
    """The norm that `s` names, as a submodule of the layer at hand."""
    if s.norm == "layer":
        return LayerNorm(1e-5, s.compute.dtype, name=name)(x)
    if s.norm == "batch":
        return BatchNorm(dtype=s.compute.dtype, name=name)(x, valid, train=train)
    return x


def dropout(x: Float[Array, "..."], rate: float, draw: Draw, name: str) -> Float[Array, "..."]:
    """x / (1 - rate) with probability 1 - rate, else 0."""
    if draw is None or rate == 0:
        return x
    return jnp.where(draw(name, x.shape) >= rate, x / (1 - rate), jnp.zeros((), x.dtype))


# Networks ---------------------------------------------------------------------------------------------------------


class GraphEncoder(nn.Module):
    """`depth` layers of width `dim`."""

    dim: int
    depth: int
    shape: Convolution

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], graph: Graph, *, train: bool = False, draw: Draw = None
    ) -> tuple[Float[Array, "b n e"], ...]:
        """Return every layer's output."""
        s = self.shape
        x, hidden = x.astype(s.compute.dtype), []
        for i in range(self.depth):
            # As in the authors' code: a lone GAT layer has no activation, a last GIN layer only after a norm.
            bare = (s.kind in ("gat", "dotgat") and self.depth == 1) or (s.kind == "gin" and s.norm == "none")
            activate = not (bare and i == self.depth - 1)
            x = _layer(s)(self.dim, s, activate=activate, name=str(i))(x, graph, train, draw)
            hidden.append(x)
        return tuple(hidden)


class GraphDecoder(nn.Module):
    """A linear layer without bias, the re-mask, and one layer of `kind` to `out` features; of one head, if a GAT.

    An MLP and a linear layer for a decoder are not re-masked.
    """

    dim: int
    out: int
    kind: Kind | Literal["mlp", "linear"]
    shape: Convolution

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        hidden: Bool[Array, "b n"],
        graph: Graph,
        *,
        train: bool = False,
        draw: Draw = None,
    ) -> tuple[Float[Array, "b n e"], Float[Array, "b n f"]]:
        """Return (the prediction of every node in float32, what the decoder reads)."""
        dtype = self.shape.compute.dtype
        x = dense(self.dim, "embed", dtype, use_bias=False, kernel_init=torch_linear)(x)
        if self.kind == "linear":
            return dense(self.out, "pred", dtype, kernel_init=torch_linear)(x).astype(jnp.float32), x
        if self.kind == "mlp":
            y = Activate("prelu", name="act")(dense(self.dim, "fc", dtype, kernel_init=torch_linear)(x))
            y = dropout(y, 0.2, draw, "mlp")  # whatever the other rates
            return dense(self.out, "pred", dtype, kernel_init=torch_linear)(y).astype(jnp.float32), x
        x = jnp.where(hidden[:, :, None], jnp.zeros((), x.dtype), x)
        shape = dataclasses.replace(self.shape, kind=self.kind, heads=1)
        y = _layer(shape)(self.out, shape, inner=False, activate=False, name="pred")(x, graph, train, draw)
        return y.astype(jnp.float32), x


def _layer(s: Convolution) -> Any:
    """The class of a kind's layers, rematerialised where asked for."""
    layer = LAYERS[s.kind]
    if s.compute.remat == "none":
        return layer
    return nn.remat(layer, policy=policy(s.compute), static_argnums=(3, 4))  # train, draw
