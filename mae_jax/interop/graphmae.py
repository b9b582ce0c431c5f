"""THUDM/GraphMAE: the pretraining model `PreModel` with any of its encoders and decoders.

Names are those of its state dict. Self-loops are among the edges.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.interop.golden import Golden
from mae_jax.interop.names import Constant, Rule, Rules, Transform, Unused, export_weights, transpose
from mae_jax.interop.options import REQUIRED, options
from mae_jax.interop.parity import Prepared
from mae_jax.methods.graphmae import GraphMAE

STACKS = {"gat": "gat_layers", "dotgat": "gat_layers", "gin": "layers", "gcn": "gcn_layers"}
NORMS = {None: "none", "": "none", "layernorm": "layer", "batchnorm": "batch"}
ACTIVATIONS = {None: "none", "prelu": "prelu", "relu": "relu", "elu": "elu", "gelu": "gelu"}

first = Transform(lambda x: x[0], lambda x: np.asarray(x)[None])  # a leading axis of 1 on their side

Map = list[Rule | Constant | Unused]


def rules(method: GraphMAE) -> Rules:
    """Name map of `PreModel`; ours lie under params/ and stats/."""
    last = method.depth - 1
    encoder: Map = []
    for i in range(method.depth):
        theirs = f"encoder.{STACKS[method.encoder]}.{i}"
        encoder += _layer(method.encoder, theirs, f"encoder/{i}", nested=i < last or method.norm != "none")
    if method.decoder == "mlp":
        decoder = [*_linear("decoder.0", "decoder/fc"), *_linear("decoder.3", "decoder/pred")]
        decoder += [Rule("decoder.1.weight", "params/decoder/act/slope")]
    elif method.decoder == "linear":
        decoder = _linear("decoder", "decoder/pred")
    else:
        decoder = _layer(method.decoder, f"decoder.{STACKS[method.decoder]}.0", "decoder/pred", nested=False)
    return [
        Rule("enc_mask_token", "params/mask_token"),
        *encoder,
        *_linear("encoder_to_decoder", "decoder/embed"),
        *decoder,
        Unused("{any:.*}num_batches_tracked", "counts the updates of running statistics; nothing reads it"),
    ]


def _layer(kind: str, theirs: str, ours: str, nested: bool) -> Map:
    """All that a layer may hold. `nested`: a GIN's MLP lies inside the module that adds norm and activation."""
    found = _linear(f"{theirs}.res_fc", f"{ours}/residual")
    if kind == "gin":
        after, mlp = f"{theirs}.apply_func", f"{theirs}.apply_func" + ".mlp" * nested
        return [
            *found, Rule(f"{theirs}.eps", f"stats/{ours}/eps", first),
            *_linear(f"{mlp}.linears.0", f"{ours}/fc1"), *_linear(f"{mlp}.linears.1", f"{ours}/fc2"),
            *_norm(f"{mlp}.norms.0", f"{ours}/norm1"), *_norm(f"{after}.norm", f"{ours}/norm"),
            Rule(f"{mlp}.activations.0.weight", f"params/{ours}/act1/slope"),
            Rule(f"{after}.act.weight", f"params/{ours}/act/slope"),
        ]  # fmt: skip
    found += [*_linear(f"{theirs}.fc", f"{ours}/fc"), *_norm(f"{theirs}.norm", f"{ours}/norm")]
    if kind == "gcn":
        return [*found, Rule(f"{theirs}._activation.weight", f"params/{ours}/act/slope")]
    return [
        *found, Rule(f"{theirs}.activation.weight", f"params/{ours}/act/slope"),
        Rule(f"{theirs}.attn_l", f"params/{ours}/source/kernel", first),
        Rule(f"{theirs}.attn_r", f"params/{ours}/target/kernel", first),
        Rule(f"{theirs}.bias", f"params/{ours}/bias"),
    ]  # fmt: skip


def _linear(theirs: str, ours: str) -> Map:
    return [
        Rule(f"{theirs}.weight", f"params/{ours}/kernel", transpose),
        Rule(f"{theirs}.bias", f"params/{ours}/bias"),
    ]


def _norm(theirs: str, ours: str) -> Map:
    """A LayerNorm or a BatchNorm1d."""
    return [
        Rule(f"{theirs}.weight", f"params/{ours}/scale"),
        Rule(f"{theirs}.bias", f"params/{ours}/bias"),
        Rule(f"{theirs}.running_mean", f"stats/{ours}/mean"),
        Rule(f"{theirs}.running_var", f"stats/{ours}/var"),
    ]


def method_of(config: Mapping[str, Any], nodes: int, edges: int) -> GraphMAE:
    """Our method from the arguments of `PreModel`, for a graph of this size."""
    known = {
        "in_dim": REQUIRED, "num_hidden": REQUIRED, "num_layers": REQUIRED, "nhead": REQUIRED, "nhead_out": 1,
        "activation": REQUIRED, "feat_drop": 0.0, "attn_drop": 0.0, "negative_slope": 0.2, "residual": REQUIRED,
        "norm": REQUIRED, "mask_rate": 0.3, "encoder_type": "gat", "decoder_type": "gat", "loss_fn": "sce",
        "drop_edge_rate": 0.0, "replace_rate": 0.1, "alpha_l": 2, "concat_hidden": False,
    }  # fmt: skip
    o = options(config, known, what="PreModel")
    for name, covered in (
        ("encoder_type", STACKS), ("decoder_type", (*STACKS, "mlp", "linear")), ("loss_fn", ("sce", "mse")),
        ("norm", NORMS), ("activation", ACTIVATIONS),
    ):  # fmt: skip
        if o[name] not in covered:
            raise UserError(
                f"PreModel with {name}={o[name]!r} has no counterpart here: {', '.join(map(str, covered))}."
            )
    if "gat" in o["decoder_type"] and o["nhead_out"] != 1:
        raise UserError(
            f"PreModel with nhead_out={o['nhead_out']}: a GAT decoder of several heads gives as many times the input's "
            f"features, and its loss cannot be computed."
        )
    norm: Any = NORMS[o["norm"]]
    activation: Any = ACTIVATIONS[o["activation"]]
    method = GraphMAE(
        nodes=nodes, edges=edges, features=o["in_dim"], encoder=o["encoder_type"], decoder=o["decoder_type"],
        dim=o["num_hidden"], depth=o["num_layers"], heads=o["nhead"], norm=norm,
        activation=activation, residual=bool(o["residual"]), concat_hidden=bool(o["concat_hidden"]),
        drop=float(o["feat_drop"]), attention_drop=float(o["attn_drop"]), negative_slope=float(o["negative_slope"]),
        mask_ratio=float(o["mask_rate"]), replace_ratio=float(o["replace_rate"]),
        drop_edge=float(o["drop_edge_rate"]), error=o["loss_fn"], alpha=float(o["alpha_l"]),
    )  # fmt: skip
    method.check()
    return method


def prepare(golden: Golden) -> Prepared:
    """`Method.loss`, its gradient and `Method.encode` in eval mode, with the stored permutations for draws."""
    x, senders, receivers = (golden.input(name) for name in ("features", "edge_src", "edge_dst"))
    method = method_of(golden.config, len(x), len(senders))
    if x.shape[1] != method.features:
        raise UserError(f"The features are {x.shape[1]}, but in_dim says {method.features}.")
    batch = {
        "nodes": jnp.asarray(x, jnp.float32)[None],
        "senders": jnp.asarray(senders, jnp.int32)[None],
        "receivers": jnp.asarray(receivers, jnp.int32)[None],
        "edge_valid": jnp.ones((1, len(senders)), bool),
        "node_valid": jnp.ones((1, len(x)), bool),
    }
    name_map, given = rules(method), draws(golden, method)
    params, stats = jax.eval_shape(method.init, jax.random.key(0), batch)

    def loss(params: dict[str, Any], stats: dict[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        context = Context(jax.random.key(0), train=False, given=given)
        value, aux = method.loss(params, {"stats": stats}, batch, context)
        return value, aux.seen

    def run(ours: dict[str, Any]) -> dict[str, Any]:
        params, stats = ours["params"], ours.get("stats", {})
        (value, seen), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, stats)
        features = jax.jit(lambda params, stats: method.encode(params, {"stats": stats}, batch))(params, stats)
        theirs = export_weights(name_map, {"params": gradient})
        return {
            "corrupted": seen["corrupted"][0],
            "latent": seen["latent"][0],
            **{f"hidden{i}": seen[f"layer{i}"][0] for i in range(method.depth)},
            "decoder_input": seen["read"][0],
            "reconstruction": seen["pred"][0],
            "loss": value,
            "embedding": features.normed[0],
            **{f"grad_norm/{name}": np.linalg.norm(g.astype(np.float64).ravel()) for name, g in theirs.items()},
        }

    return Prepared(run, name_map, {"params": params, "stats": stats})


def draws(golden: Golden, method: GraphMAE) -> dict[str, jax.Array]:
    """The stored permutations as scores whose order they are."""
    nodes = golden.input("node_permutation")
    given = {"mask": _scores(nodes, method.nodes)}
    if method.replace_ratio > 0:
        hidden = nodes[: int(method.mask_ratio * method.nodes)]
        given["replace"] = _scores(hidden[golden.input("mask_permutation")], method.nodes)
        given["donor"] = _scores(golden.input("noise_permutation"), method.nodes)
    if method.drop_edge > 0:
        given["drop_edge"] = jnp.asarray(golden.input("edge_keep"), jnp.float32)[None]
    return given


def _scores(order: np.ndarray, n: int) -> jax.Array:
    """[1, n]: the place of each node in `order`; n where it is not there."""
    scores = np.full((1, n), n, np.float32)
    scores[0, order] = np.arange(len(order))
    return jnp.asarray(scores)


CASES = {"PreModel": prepare}
