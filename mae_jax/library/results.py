"""What a model gives back: arrays on the host, and the few questions that are asked of them."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.core.types import Features
from mae_jax.eval.features import pool


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What an encoder says of n images, float32 on the host.

    Attributes:
      tokens: [n, patches, dim] patch tokens before the last norm, in raster order.
      normed: the same after the last norm.
      prefix: [n, p, dim] class and register tokens after the last norm; p may be 0.
      grid: how the patches lie, as (rows, columns).
      valid: bool [n, patches], which are real (None: all).
      parts: further streams of encoders of several sensors, by name.
    """

    tokens: np.ndarray
    normed: np.ndarray
    prefix: np.ndarray
    grid: tuple[int, ...]
    valid: np.ndarray | None = None
    parts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def pooled(self, how: str = "mean") -> np.ndarray:
        """One vector per image [n, dim].

        Args:
          how: "mean" over the patches after the last norm, "raw_mean" before it, "class" (the class token), "sum",
            "max". Linear probes and kNN of this project read "mean".
        """
        valid = None if self.valid is None else jnp.asarray(self.valid)
        tokens, normed, prefix = map(jnp.asarray, (self.tokens, self.normed, self.prefix))
        return np.asarray(pool(Features(tokens=tokens, normed=normed, prefix=prefix, valid=valid), how))

    @property
    def maps(self) -> np.ndarray:
        """`normed` on its grid, [n, rows, columns, dim]."""
        return self.normed.reshape(len(self.normed), *self.grid, -1)


@dataclasses.dataclass(frozen=True)
class Attention:
    """Attention weights of every block.

    Attributes:
      maps: per block [n, heads, tokens, tokens] float32; each row sums to 1. Prefix tokens come first.
      prefix: how many prefix tokens there are.
      grid: how the patches behind them lie.
    """

    maps: tuple[np.ndarray, ...]
    prefix: int
    grid: tuple[int, ...]

    def of_class(self, block: int = -1) -> np.ndarray:
        """[n, heads, rows, columns]: what the class token looks at in a block (by default the last)."""
        if not self.prefix:
            raise UserError("this encoder has no class token; look at `maps`, or take their mean over the queries.")
        weights = self.maps[block][:, :, 0, self.prefix :]
        return weights.reshape(*weights.shape[:2], *self.grid)


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What a model paints where it sees nothing.

    Attributes:
      pictures: {"original", "masked", "reconstruction", "pasted", ...}: [n, h, w, c] float32 in [0, 1], of the size
        that the network reads. Where the model predicts normalised pixels, each patch has its true mean and deviation.
      hidden: bool [n, patches], True where the patch was hidden.
      pred: the raw prediction [n, patches, out], or None where the method has none of that name.
      seen: everything that the loss has looked at, by name.
    """

    pictures: dict[str, np.ndarray]
    hidden: np.ndarray | None
    pred: np.ndarray | None
    seen: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Classification:
    """Scores of a classifier's head.

    Attributes:
      logits: [n, classes] float32.
      probabilities: the same; each row adds up to 1, save where an image may be of several classes.
      names: of the classes, or their numbers where no names are known.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    names: tuple[str, ...]

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """Per image the k best (name, probability), best first."""
        best = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [[(self.names[j], float(p[j])) for j in row] for row, p in zip(best, self.probabilities, strict=True)]
