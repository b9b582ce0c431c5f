"""GraphMAE: Self-Supervised Masked Graph Autoencoders (Hou et al., 2022; KDD 2022). arXiv 2205.10803.

Hide the features of half of a graph's nodes and predict them from their neighbours: a graph network encodes the graph
with its features corrupted, the codes of the hidden nodes are set to zero, and one more layer decodes (Sec. 3.2). Edges
are given, never predicted. New against MAE: the hidden nodes stay in the encoder; they carry a mask token or, a few,
another node's features; the decoder is a graph network behind a re-mask; the loss is the scaled cosine error (Eq. 2).

Quirks of the authors' code that are kept here: the mask token starts at zero, and hidden codes are re-masked with a
constant zero; a whole batch of graphs is masked at once, not graph by graph (`bucket`); the drop of edges takes
self-loops too, then gives every node one (again); norm and activation follow the encoder's last layer as well; a graph
convolution divides its bias by the degree's root; where a hidden node has only hidden neighbours, the prediction is the
decoder's bias, 0 at the start, and the gradient of its cosine is 1e12 large (Adam's first step forgets its size).
Not kept: a replace ratio too small to replace one node breaks their code, and replaces none here; nor does a decoder
"linear" run there (a misspelt name).
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Features, Params, Stats
from mae_jax.losses.cosine import scaled_cosine_error
from mae_jax.losses.masked import masked_mean, squared_error
from mae_jax.masking.nodes import Corruption, corrupt_nodes
from mae_jax.methods.base import Cost, Leaf, Method, Rest
from mae_jax.nets import flops
from mae_jax.nets.graph import Activation, Convolution, Graph, GraphDecoder, GraphEncoder, Kind, Norm
from mae_jax.nets.layers import apply_stats
from mae_jax.tokens.gather import gather

DRAWN = (128, 512)  # features and nodes in a picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphMAE(Method):
    """Graph masked autoencoder. The defaults are Cora (authors' configs.yml).

    Attributes:
      task: "node": the batch is one graph, whole on every device; "graph": each sample is a graph, padded.
      nodes, edges: the most that a graph has, self-loops included. features: of a node.
      encoder, decoder: "gat", "gin", "gcn", "dotgat"; the decoder also "mlp" or "linear", which are not re-masked.
      dim: width of every layer, all heads together. depth: layers of the encoder. heads: of a GAT encoder.
      norm, activation, residual: around every layer of the encoder (nets/graph.py).
      concat_hidden: the decoder reads the outputs of all layers.
      drop: share of every layer's input values that training drops. attention_drop: of attention coefficients.
      negative_slope: of the leaky ReLU in GAT's attention.
      mask_ratio: share of hidden nodes. replace_ratio: of these, the share with another node's features (Sec. 3.2).
      drop_edge: share of edges that the encoder does not see.
      error: "sce", the scaled cosine error, or "mse". alpha: its power (gamma in the paper).
      bucket: how many graphs are masked together (task "graph"); the authors': the batch. A divisor of the graphs on a
        device needs no communication.
    """

    name: ClassVar[str] = "graphmae"

    task: Literal["node", "graph"] = "node"
    nodes: int = 2708
    edges: int = 13264
    features: int = 1433
    encoder: Kind = "gat"
    decoder: Literal["gat", "dotgat", "gin", "gcn", "mlp", "linear"] = "gat"
    dim: int = 512
    depth: int = 2
    heads: int = 4
    norm: Norm = "none"
    activation: Activation = "prelu"
    residual: bool = False
    concat_hidden: bool = False
    drop: float = 0.2
    attention_drop: float = 0.1
    negative_slope: float = 0.2
    mask_ratio: float = 0.5
    replace_ratio: float = 0.05
    drop_edge: float = 0.0
    error: Literal["sce", "mse"] = "sce"
    alpha: float = 3.0
    bucket: int = 1

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        split = self.task == "graph"
        return {
            "nodes": Leaf((self.nodes, self.features), batched=split),
            "senders": Leaf((self.edges,), "int32", batched=split),
            "receivers": Leaf((self.edges,), "int32", batched=split),
            "edge_valid": Leaf((self.edges,), "bool", batched=split),
            "node_valid": Leaf((self.nodes,), "bool", batched=split),
        }

    @property
    def couples(self) -> tuple[str, ...]:
        return ("bn",) * (self.norm == "batch") + ("mask",) * (self.bucket > 1)

    @property
    def dead(self) -> Mapping[str, str]:
        if self.decoder != "gat":
            return {}
        return {r"^decoder/pred/target/kernel$": "it reads the codes of scored nodes, which the re-mask made zero"}

    @property
    def shape(self) -> Convolution:
        return Convolution(
            self.encoder, self.heads if "gat" in self.encoder else 1, self.norm, self.activation, self.residual,
            self.drop, self.attention_drop, self.negative_slope, self.compute,
        )  # fmt: skip

    @property
    def networks(self) -> tuple[GraphEncoder, GraphDecoder]:
        """The encoder and the decoder."""
        return (
            GraphEncoder(self.dim, self.depth, self.shape),
            GraphDecoder(self.dim, self.features, self.decoder, self.shape),
        )

    def check(self) -> None:
        for what, value, least in (
            ("nodes", self.nodes, 2), ("edges", self.edges, 1), ("features", self.features, 1),
            ("dim", self.dim, 1), ("depth", self.depth, 1), ("heads", self.heads, 1), ("bucket", self.bucket, 1),
        ):  # fmt: skip
            if value < least:
                raise UserError(f"method.{what}={value}: at least {least} expected.")
        if "gat" in self.encoder and self.dim % self.heads:
            raise UserError(f"method.dim={self.dim} must be a multiple of method.heads={self.heads}.")
        for what in ("mask_ratio", "replace_ratio", "drop_edge", "drop", "attention_drop"):
            if not 0 <= getattr(self, what) < 1:
                raise UserError(f"method.{what}={getattr(self, what)} is a share: 0 <= {what} < 1 expected.")
        if int(self.mask_ratio * self.nodes * (self.bucket if self.task == "graph" else 1)) < 1:
            raise UserError(
                f"method.mask_ratio={self.mask_ratio} hides none of {self.nodes} nodes, so nothing is predicted: at "
                f"least {1 / self.nodes:.4f} hides one."
            )
        if self.error == "sce" and self.alpha < 1:
            raise UserError(f"method.alpha={self.alpha}: the power of the scaled cosine error is at least 1.")
        if self.task == "node" and self.bucket > 1:
            raise UserError(f"method.bucket={self.bucket}: with task='node' there is one graph; set method.bucket=1.")

    def cost(self) -> Cost:
        """The linear layers and attention scores; what travels along edges is bound by memory and left out."""
        n, d, f = self.nodes, self.dim, self.features
        wide = d * self.depth if self.concat_hidden else d
        forward = sum(_layer_cost(self.shape, n, d, f if i == 0 else d, d) for i in range(self.depth))
        forward += flops.dense(n, wide, d)
        if self.decoder == "mlp" or self.decoder == "linear":
            forward += flops.dense(n, d, f) + (flops.dense(n, d, d) if self.decoder == "mlp" else 0)
        else:
            shape = dataclasses.replace(self.shape, kind=self.decoder, residual=False)
            forward += _layer_cost(shape, n, d, d, f)
        return Cost(forward=forward, tokens=n, visible=n)

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        x, graph = batch["nodes"], _graph(batch)
        encoder, decoder = self.networks
        encoder_key, decoder_key = jax.random.split(key)
        codes, first = encoder.init_with_output(encoder_key, x, graph)
        second = decoder.init(decoder_key, self._read(codes), graph.node_valid, graph)
        params = {
            "mask_token": jnp.zeros((1, self.features)), "encoder": first["params"], "decoder": second["params"]
        }  # fmt: skip
        return params, _statistics(first.get("stats"), second.get("stats"))

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        x, graph, stats, train = batch["nodes"], _graph(batch), rest["stats"], ctx.train
        encoder, decoder = self.networks
        corruption = corrupt_nodes(ctx, graph.node_valid, self.mask_ratio, self.replace_ratio, self.bucket)
        hidden = corruption.hidden.reshape(graph.node_valid.shape)
        corrupted = corrupt_features(x, params["mask_token"], corruption)
        thin = graph
        if self.drop_edge > 0:
            thin = graph.thinned(ctx.uniform("drop_edge", graph.senders.shape), self.drop_edge)
        codes, encoder_stats = apply_stats(
            encoder,
            params["encoder"],
            stats.get("encoder", {}),
            corrupted,
            thin,
            train=train,
            draw=_draw(ctx, "encoder"),
        )
        (pred, read), decoder_stats = apply_stats(
            decoder, params["decoder"], stats.get("decoder", {}), self._read(codes), hidden, graph,
            train=train, draw=_draw(ctx, "decoder"),
        )  # fmt: skip
        error = scaled_cosine_error(pred, x, self.alpha) if self.error == "sce" else squared_error(pred, x)
        loss, weight = masked_mean(error, hidden)
        seen = {
            "corrupted": corrupted, "latent": codes[-1], "read": read, "pred": pred, "hidden": hidden,
            **{f"layer{i}": code for i, code in enumerate(codes)},
        }  # fmt: skip
        new = _statistics(encoder_stats, decoder_stats)
        return loss, Aux(stats=new, metrics={"loss": loss}, weight=weight, seen=seen)

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        graph, encoder = _graph(batch), self.networks[0]
        draw = _draw(ctx, "encoder") if ctx is not None and train else None
        codes, stats = apply_stats(
            encoder, params["encoder"], rest["stats"].get("encoder", {}), batch["nodes"], graph, train=train, draw=draw
        )
        b, n, d = codes[-1].shape
        return Features(
            tokens=codes[-1], normed=codes[-1], prefix=jnp.zeros((b, 0, d), codes[-1].dtype), grid=(n,),
            valid=graph.node_valid, hidden=codes, stats=dict(rest["stats"]) | _statistics(stats),
        )  # fmt: skip

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        """Features as heat maps, a column per node; a cosine's prediction has no length, so it gets its target's."""
        x, pred, hidden = batch["nodes"], seen["pred"], seen["hidden"][:, :, None]
        if self.error == "sce":
            length = lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True)
            pred = pred * (length(x) / jnp.maximum(length(pred), 1e-12))
        low, high = x.min(), x.max()
        rows, columns = DRAWN
        scale = lambda x: ((x - low) / jnp.maximum(high - low, 1e-12)).swapaxes(1, 2)[:, :rows, :columns, None]
        return {
            "original": scale(x),
            "masked": scale(jnp.where(hidden, low, x)),
            "reconstruction": scale(pred),
            "pasted": scale(jnp.where(hidden, pred, x)),
        }

    def _read(self, codes: tuple[Array, ...]) -> Float[Array, "b n d"]:
        """What goes to the decoder."""
        return jnp.concatenate(codes, axis=-1) if self.concat_hidden else codes[-1]


def corrupt_features(
    x: Float[Array, "b n d"], mask_token: Float[Array, "1 d"], corruption: Corruption
) -> Float[Array, "b n d"]:
    """The features as the encoder sees them: the mask token, another node's, or their own."""
    donated = gather(x.reshape(*corruption.hidden.shape, x.shape[-1]), corruption.donor).reshape(x.shape)
    token, noise = (m.reshape(*x.shape[:2], 1) for m in (corruption.token, corruption.noise))
    return jnp.where(token, mask_token[None], jnp.where(noise, donated, x))


def _graph(batch: Batch) -> Graph:
    return Graph(batch["senders"], batch["receivers"], batch["edge_valid"], batch["node_valid"])


def _statistics(encoder: Stats | None, decoder: Stats | None = None) -> Stats:
    """Of both networks; one that has none is left out, since checkpoints hold no empty entries."""
    return {name: part for name, part in (("encoder", encoder), ("decoder", decoder)) if part}


def _draw(ctx: Context, name: str):
    """Where dropout draws from, in training."""
    return ctx.fork(name).uniform if ctx.train else None


def _layer_cost(s: Convolution, n: int, dim: int, d_in: int, d_out: int) -> float:
    """The dense part of one layer on n nodes; `dim` is the network's width."""
    residual = flops.dense(n, d_in, d_out) if s.residual and d_in != d_out else 0.0
    if s.kind == "gin":
        return residual + flops.dense(n, d_in, dim) + flops.dense(n, dim, d_out)
    scores = 2 * flops.dense(n, d_out, 1) if s.kind == "gat" else 0.0
    return residual + flops.dense(n, d_in, d_out) + scores
