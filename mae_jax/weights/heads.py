"""A classifier's head on an encoder's features."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.types import Features
from mae_jax.nets.layers import LayerNorm, apply


def logits(features: Features, head: Mapping[str, Any], pool: str, norm_eps: float = 1e-6) -> Float[Array, "b classes"]:
    """The classes' logits, float32.

    Args:
      features: of `Method.encode`.
      head: `Weights.head`: {"params": {"head": {"kernel", "bias"}, "fc_norm" where it norms what it pooled}}.
      pool: `Weights.info["head"]["pool"]`: "mean" of the patch tokens before the last norm (facebookresearch/mae's
        fine-tuned files, timm's global_pool="avg"); "normed_mean", after it (big_vision's gap); "class".
      norm_eps: of `fc_norm`: the method's.
    """
    params = head["params"]
    if "kernel" not in params["head"]:
        raise UserError(
            "this head has several layers with batch norms, of which only `mae_jax evaluate --protocols classify` "
            "knows how to run them."
        )
    if pool == "class":
        if features.prefix.shape[1] == 0:
            raise UserError("this head reads the class token, and the encoder has none.")
        x = features.prefix[:, 0]
    elif pool in ("mean", "normed_mean"):
        tokens = features.tokens if pool == "mean" else features.normed
        x = tokens.astype(jnp.float32).mean(axis=1)
    else:
        raise UserError(f"a head that reads '{pool}' is not known here: mean, normed_mean, class.")
    x = x.astype(jnp.float32)
    if "fc_norm" in params:
        x = apply(LayerNorm(norm_eps), params["fc_norm"], x)
    return x @ params["head"]["kernel"] + params["head"]["bias"][None]


def count(head: Mapping[str, Any]) -> int:
    """How many classes a head knows."""
    layers = tree.flatten(head["params"]["head"])
    return layers[max(path for path in layers if path.endswith("kernel"))].shape[1]  # of several, "fc2/kernel"


def shapes(width: int, hidden: Sequence[int], classes: int, *, normed: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters, statistics) of a head on `width` numbers, as fine-tuning writes them.

    Args:
      hidden: widths of the layers before the last one, each with a batch norm behind it.
      normed: whether what it reads is normed first.
    """
    shape = lambda *axes: jax.ShapeDtypeStruct(axes, jnp.float32)
    dense = lambda rows, columns: {"kernel": shape(rows, columns), "bias": shape(columns)}
    params: dict[str, Any] = {"head": dense(width, classes)}
    if hidden:
        widths = (width, *hidden, classes)
        params = {"head": {f"fc{i}": dense(a, b) for i, (a, b) in enumerate(zip(widths, widths[1:]))}}
        params["head"] |= {f"norm{i}": {"scale": shape(w), "bias": shape(w)} for i, w in enumerate(hidden)}
    if normed:
        params["fc_norm"] = {"scale": shape(width), "bias": shape(width)}
    return params, {f"norm{i}": {"mean": shape(w), "var": shape(w)} for i, w in enumerate(hidden)}
