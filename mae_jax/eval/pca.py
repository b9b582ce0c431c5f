"""Principal components with signs that do not depend on the linear algebra library."""

import dataclasses

import numpy as np
from jaxtyping import Float, Shaped

from mae_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Components:
    """The first k principal components of n vectors.

    Attributes:
      basis: orthonormal rows, largest variance first; the entry of largest magnitude in each is positive.
      share: of the total variance, of each component.
    """

    mean: Float[np.ndarray, " d"]
    basis: Float[np.ndarray, "k d"]
    share: Float[np.ndarray, " k"]

    def __call__(self, x: Shaped[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n k"]:
        """Coordinates along the components."""
        return (x.astype(np.float64) - self.mean) @ self.basis.T


def principal(x: Shaped[np.ndarray, "n d"], k: int) -> Components:
    """Principal components of the rows of `x`, in float64.

    Raises:
      UserError: more components than n - 1 or d can give, or values that are not finite.
    """
    n, d = x.shape
    if k > min(n - 1, d):
        raise UserError(
            f"{k} principal components were asked of {n} vector(s) of {d} numbers, which have at most "
            f"{max(min(n - 1, d), 0)}: give more samples."
        )
    if not np.isfinite(x).all():
        raise UserError("the features are not finite, so they have no principal components: the weights diverged.")
    x = x.astype(np.float64)
    mean = x.mean(axis=0)
    x = x - mean
    if n < d:
        _, singular, basis = np.linalg.svd(x, full_matrices=False)
        variance = singular**2
    else:  # d x d stays small where n runs into millions
        variance, columns = np.linalg.eigh(x.T @ x)
        variance, basis = np.maximum(variance[::-1], 0.0), columns.T[::-1]
    basis = basis[:k]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], axis=1)
    basis = basis * np.where(largest < 0, -1.0, 1.0)
    return Components(mean, basis, variance[:k] / max(variance.sum(), np.finfo(np.float64).tiny))
