"""Compare sets of weights of one method: encode a labelled train and test split, then probe the features."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jaxtyping import Array, Float

from mae_jax.augment.normalise import normalise
from mae_jax.core.errors import UserError
from mae_jax.core.types import Batch, Params
from mae_jax.eval.features import Labelled, check_pool, extract, pool
from mae_jax.eval.probes import Result, check_protocols, probe
from mae_jax.methods.base import Method, Rest

Prepare = Callable[[Batch], Batch]
Weights = tuple[Params, Rest]
Encode = Callable[[Params, Rest, Batch], Float[Array, "b d"]]
Batches = Iterable[Mapping[str, Any]]

RAW_LIMIT = 3 * 128 * 128  # values per sample; with more, pixels fill the memory long before they inform anybody


def normaliser(mean: Sequence[float], std: Sequence[float]) -> Prepare:
    """The device-side step before `encode`: integer images to normalised float32; other leaves unchanged."""

    def prepare(batch: Batch) -> Batch:
        return {**batch, "image": normalise(batch["image"], tuple(mean), tuple(std))}

    return prepare


def encoder(method: Method, how: str, prepare: Prepare) -> Encode:
    """Jitted: a batch as the source gives it -> one vector per sample. One compilation serves all weights."""

    @jax.jit
    def encode(params: Params, rest: Rest, batch: Batch) -> Float[Array, "b d"]:
        return pool(method.encode(params, rest, prepare(batch)), how)

    return encode


def pixels(prepare: Prepare) -> Callable[[Batch], Float[Array, "b d"]]:
    """Jitted: the prepared image itself as a feature vector, the baseline that needs no network."""

    @jax.jit
    def flatten(batch: Batch) -> Float[Array, "b d"]:
        image = prepare(batch)["image"]
        return image.reshape(image.shape[0], -1).astype(jnp.float32)

    return flatten


class Evaluator:
    """What is compiled once and asked again: at every online evaluation, and at the end.

    Args:
      prepare: what is done to a batch on the device before `encode`; see `normaliser`.
      how: the pooling, see `features.pool`.
      protocols: names in `probes.PROTOCOLS`.
      raw: whether to add the pixels as a set named "raw".
      sharding: how batches lie on the devices (`mesh.batch_sharding`); their size must be divisible by the
        devices.

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
        sharding: Sharding | None = None,
    ):
        check_protocols(protocols)
        check_pool(how)
        if raw:
            _check_raw(method)
        self.protocols, self.sharding = tuple(protocols), sharding
        self._encode = encoder(method, how, prepare)
        self._pixels = pixels(prepare) if raw else None

    def check(self, params: Params, rest: Rest, batch: Mapping[str, Any]) -> None:
        """Trace `encode` on shapes alone: a pooling that the encoder cannot give fails before training.

        All arguments may hold `jax.ShapeDtypeStruct`s for arrays.
        """
        inputs = {key: leaf for key, leaf in batch.items() if key not in ("label", "valid")}
        jax.eval_shape(self._encode, params, rest, inputs)

    def features(self, weights: Mapping[str, Weights], batches: Batches) -> dict[str, Labelled]:
        """Features by each set of weights, and of the pixels; one pass over the batches."""
        encoders: dict[str, Callable[[Batch], Float[Array, "b d"]]] = {
            name: functools.partial(self._encode, params, rest) for name, (params, rest) in weights.items()
        }
        if self._pixels is not None:
            encoders["raw"] = self._pixels
        return extract(encoders, batches, sharding=self.sharding)

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
        return {name: probe(fitted[name], scored[name], self.protocols) for name in fitted}


def _check_raw(method: Method) -> None:
    spec = method.batch_spec
    if "image" not in spec:
        raise UserError(
            f"eval.raw=True compares with raw pixels, but '{method.name}' reads no image. Set eval.raw=False."
        )
    size = math.prod(spec["image"].shape)
    if size > RAW_LIMIT:
        raise UserError(
            f"eval.raw=True compares with raw pixels as features, but an image of shape "
            f"{spec['image'].shape} has {size} values; the limit is {RAW_LIMIT}. Set eval.raw=False."
        )
