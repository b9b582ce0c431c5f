"""Label-free signs of collapse in a set of features."""

import numpy as np
from jaxtyping import Shaped

from mae_jax.eval.knn import unit


def rankme(features: Shaped[np.ndarray, "n d"], eps: float = 1e-7) -> float:
    """Effective rank: exp of the entropy of the singular values' shares (Garrido et al., 2023, 2210.02885).

    Between 1 (all features on one line) and min(n, d). Not centred, as in the paper (Eq. 1-2).
    """
    singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    share = singular / max(singular.sum(), np.finfo(np.float64).tiny) + eps
    return float(np.exp(-(share * np.log(share)).sum()))


def spread(features: Shaped[np.ndarray, "n d"]) -> float:
    """Deviation per feature of unit-length vectors, averaged and times sqrt(d) (Chen & He, 2021, Fig. 2).

    1 for vectors spread evenly over the sphere, 0 where all samples have the same direction.
    """
    x = unit(features).astype(np.float64)
    return float(x.std(axis=0).mean() * np.sqrt(x.shape[1]))


def health(features: Shaped[np.ndarray, "n d"]) -> dict[str, float]:
    """Both measures by name, as they are logged."""
    return {"rankme": rankme(features), "spread": spread(features)}
