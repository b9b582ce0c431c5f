"""From a stream of batches to arrays of features on the host: everything goes through `Method.encode`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Float32, Int64

from mae_jax.core.errors import UserError, nearest
from mae_jax.core.types import Batch, Features
from mae_jax.nets.layers import largest

POOLS = ("mean", "class", "raw_mean", "sum", "max", "tokens")
Place = Callable[[str, Any], Array]  # (name, rows of this process) -> the global array


class Labelled(NamedTuple):
    """Features of n samples and their classes: a number each, or [n, classes] of 0 and 1 (one may be of several)."""

    features: Float32[np.ndarray, "n d"]
    labels: Int64[np.ndarray, "n *c"]

    @property
    def multilabel(self) -> bool:
        return self.labels.ndim == 2


def check_pool(how: str) -> None:
    """Raise UserError on a name that is not a pooling."""
    if how not in POOLS:
        raise UserError(f"eval.pool='{how}' is not a pooling. {nearest(how, POOLS)}")


def pool(features: Features, how: str) -> Float[Array, "b *n d"]:
    """One float32 vector per sample, or per token.

    Args:
      how: "mean" over the valid patch tokens after the last norm; "raw_mean" the same before the last norm
        (what fine-tuning with `fc_norm` starts from); "sum" and "max" as "mean" (graphs); "class" for the class
        token; "tokens" for no pooling: every token (node) is a sample with a label of its own.

    Raises:
      UserError: an unknown `how`, or "class" where the encoder has no class token.
    """
    check_pool(how)
    if how == "class":
        if features.prefix.shape[1] == 0:
            raise UserError(
                "eval.pool='class' reads the class token, but this encoder has none. "
                "Take eval.pool='mean', or train with method.class_token=True."
            )
        return features.prefix[:, 0].astype(jnp.float32)
    tokens = (features.tokens if how == "raw_mean" else features.normed).astype(jnp.float32)
    if how == "tokens":
        return tokens
    valid = jnp.ones(tokens.shape[:2], bool) if features.valid is None else features.valid
    valid = valid[:, :, None]
    if how == "max":
        return largest(jnp.where(valid, tokens, -jnp.inf), 1)
    total = jnp.where(valid, tokens, 0.0).sum(axis=1)  # where, not a product: a padded token may hold NaN
    return total if how == "sum" else total / jnp.maximum(valid.sum(axis=1), 1.0)


def extract(
    encoders: Mapping[str, Callable[[Batch], Float[Array, "b *n d"]]],
    batches: Iterable[Mapping[str, Any]],
    *,
    place: Place | None = None,
    multilabel: bool = False,
) -> dict[str, Labelled]:
    """Features of all real samples, in the order of the batches, by each encoder; every batch is read once.

    Args:
      encoders: name -> function of a batch without "label" and "valid".
      batches: dicts with "label" [b], or [b, n] where the encoders give a vector per token (negative: this token
        is not of the split), optionally "valid" [b] (False: padding of the last batch), and the
        input. Under several processes each yields its own rows, equally many batches, and every process gets
        the features of all.
      place: puts an array on the devices; None leaves that to jit.
      multilabel: "label" is [b, classes] of 0 and 1, for a sample; those of -1 are unlabelled and left out.

    Raises:
      UserError: no samples, no labels, or features that are not finite.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in encoders}
    labels: list[np.ndarray] = []
    for host_batch in batches:
        check_labelled(host_batch)
        batch = {key: place(key, value) if place else value for key, value in host_batch.items()}
        label, real = fetch(batch.pop("label")), batch.pop("valid", None)
        # All are dispatched before any is awaited.
        encoded = {name: encode(batch) for name, encode in encoders.items()}
        keep = kept(label, None if real is None else fetch(real), multilabel)
        labels.append(label[keep].astype(np.int64))
        for name, features in encoded.items():
            array = fetch(features)
            check_pairs(label, array, multilabel)
            parts[name].append(array[keep].astype(np.float32))
    found = {name: np.concatenate(arrays) for name, arrays in parts.items() if arrays}
    every = np.concatenate(labels) if labels else np.zeros(0, np.int64)
    return {name: checked(name, Labelled(found.get(name, np.zeros((0, 0), np.float32)), every)) for name in encoders}


def kept(label: np.ndarray, valid: np.ndarray | None, multilabel: bool = False) -> np.ndarray:
    """Which samples of a batch are real; with a label per token, which tokens are real and of the split."""
    keep = np.ones(len(label), bool) if valid is None else valid.astype(bool)
    if multilabel:
        return keep & (label >= 0).all(axis=1)
    return keep[:, None] & (label >= 0) if label.ndim == 2 else keep


def check_labelled(batch: Mapping[str, Any]) -> None:
    """Raise UserError on a batch without labels."""
    if "label" not in batch:
        raise UserError(
            "Probing needs labels, and these batches have no 'label'. Take a labelled source (for a "
            "folder: one sub-folder per class), or switch evaluation off with eval.every=0."
        )


def check_pairs(label: np.ndarray, array: np.ndarray, multilabel: bool = False) -> None:
    """Raise UserError where labels and features are not one to one."""
    if multilabel and not label.ndim == array.ndim == 2:
        raise UserError(
            f"labels of shape {label.shape}, a column for each class, need a feature vector per sample, not features "
            f"of shape {array.shape}: set eval.pool to one of {', '.join(POOLS[:-1])}."
        )
    if not multilabel and array.ndim != label.ndim + 1:
        raise UserError(
            f"labels of shape {label.shape} do not fit features of shape {array.shape}: with one label per "
            f"token set eval.pool='tokens', with one per sample another ({', '.join(POOLS[:-1])})."
        )


def checked(name: str, found: Labelled) -> Labelled:
    """Raise UserError where there are no samples, or where features are not finite."""
    if not len(found.labels):
        raise UserError("The source of an evaluation yielded no samples. Check its split and its path.")
    finite = np.isfinite(found.features).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{(~finite).sum()} of {len(finite)} feature vectors of '{name}' are not finite, so they cannot be "
            f"probed. The weights have probably diverged; evaluate an earlier checkpoint."
        )
    return found


def fetch(value: Any) -> np.ndarray:
    """The whole array on this host, also where other processes hold parts of it."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(value, tiled=True))
    return np.asarray(value)
