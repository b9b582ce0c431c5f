"""Compare sets of weights of one method: encode a labelled train and test split, then probe the features."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.errors import UserError
from mae_jax.core.types import Batch, Features, Params
from mae_jax.eval.features import Labelled, Place, check_pool, extract, pool
from mae_jax.eval.probes import DEFAULTS, Result, Settings, check_protocols, probe
from mae_jax.methods.base import Method, Rest

Prepare = Callable[[Batch], Batch]
Weights = tuple[Params, Rest]
Encode = Callable[[Params, Rest, Batch], Float[Array, "b *n d"]]
Batches = Iterable[Mapping[str, Any]]

RAW_LIMIT = 3 * 128 * 128  # values per sample; with more, pixels fill the memory long before they inform anybody


def encoder(method: Method, how: str, prepare: Prepare) -> Encode:
    """Jitted: a batch as the source gives it -> one vector per sample. One compilation serves all weights."""

    @jax.jit
    def encode(params: Params, rest: Rest, batch: Batch) -> Float[Array, "b *n d"]:
        return pool(method.encode(params, rest, prepare(batch)), how)

    return encode


def raw_input(method: Method, how: str, prepare: Prepare) -> Callable[[Batch], Float[Array, "b *n d"]]:
    """Jitted: the prepared input itself as features, the baseline that needs no network.

    Images and volumes are flattened; the features of a graph's nodes are pooled as the encoder's are.
    """
    name = next(iter(method.batch_spec))

    @jax.jit
    def features(batch: Batch) -> Float[Array, "b *n d"]:
        x = prepare(batch)[name].astype(jnp.float32)
        if name != "nodes":
            return x.reshape(x.shape[0], -1)
        return pool(Features(tokens=x, normed=x, prefix=x[:, :0], valid=batch.get("node_valid")), how)

    return features


class Evaluator:
    """What is compiled once and asked again: at every online evaluation, and at the end.

    Args:
      prepare: what is done to a batch on the device before `encode`.
      how: the pooling, see `features.pool`.
      protocols: names in `probes.PROTOCOLS`.
      raw: whether to add the input itself as a set named "raw".
      place: puts an array of a batch on the devices (`Run.place`); None leaves that to jit.
      settings: of the protocols.

    Raises:
      UserError: an unknown protocol or pooling, or raw pixels of images that are too large for that.
    """

    def __init__(
        self,
        method: Method,
        prepare: Prepare,
        *,
        how: str = "mean",
        protocols: Sequence[str] = ("linear", "knn", "five_shot"),
        raw: bool = True,
        place: Place | None = None,
        settings: Settings = DEFAULTS,
    ):
        check_protocols(protocols)
        check_pool(how)
        settings.check()
        if raw:
            _check_raw(method)
        self.protocols, self.place, self.settings = tuple(protocols), place, settings
        self._encode = encoder(method, how, prepare)
        self._raw = raw_input(method, how, prepare) if raw else None

    def check(self, params: Params, rest: Rest, batch: Mapping[str, Any]) -> None:
        """Trace `encode` on shapes alone: a pooling that the encoder cannot give fails before training.

        All arguments may hold `jax.ShapeDtypeStruct`s for arrays.
        """
        inputs = {key: leaf for key, leaf in batch.items() if key not in ("label", "valid")}
        jax.eval_shape(self._encode, params, rest, inputs)

    def features(self, weights: Mapping[str, Weights], batches: Batches) -> dict[str, Labelled]:
        """Features by each set of weights, and of the input; one pass over the batches."""
        return extract(self.encoders(weights), batches, place=self.place)

    def encoders(self, weights: Mapping[str, Weights]) -> dict[str, Callable[[Batch], Float[Array, "b *n d"]]]:
        """{set of features: batch -> features}, of each set of weights, and "raw"."""
        encoders: dict[str, Callable[[Batch], Float[Array, "b *n d"]]] = {
            name: functools.partial(self._encode, params, rest) for name, (params, rest) in weights.items()
        }
        if self._raw is not None:
            encoders["raw"] = self._raw
        return encoders

    def __call__(self, weights: Mapping[str, Weights], train: Batches, test: Batches) -> dict[str, dict[str, Result]]:
        """{set of features: {protocol: Result}}, for `probes.table` and `probes.results_json`.

        Args:
          weights: for example {"pretrained": (params, rest), "random": (params, rest)}, in the table's order.
          train, test: one pass over labelled batches each (see `features.extract`); the probes are fitted to
            `train` alone.

        Raises:
          UserError: unlabelled or empty data, features that are not finite, too few samples for a protocol.
        """
        fitted, scored = self.features(weights, train), self.features(weights, test)
        return {name: self.probe(fitted[name], scored[name]) for name in fitted}

    def probe(self, train: Labelled, test: Labelled) -> dict[str, Result]:
        """The rows of all protocols for one set of features."""
        return probe(train, test, self.protocols, self.settings)


def fits_raw(method: Method) -> bool:
    """Whether the raw input is small enough to be a set of features."""
    name, leaf = next(iter(method.batch_spec.items()))
    return name == "nodes" or math.prod(leaf.shape) <= RAW_LIMIT


def _check_raw(method: Method) -> None:
    name, leaf = next(iter(method.batch_spec.items()))
    if not fits_raw(method):
        raise UserError(
            f"eval.raw=True compares with the raw input as features, but '{name}' of shape {leaf.shape} has "
            f"{math.prod(leaf.shape)} values; the limit is {RAW_LIMIT}. Set eval.raw=False."
        )
