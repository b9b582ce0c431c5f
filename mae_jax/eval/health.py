"""Label-free signs of collapse in a set of features."""

import numpy as np
import scipy.linalg
from jaxtyping import Float, Shaped

from mae_jax.eval.knn import unit

RANKME_SAMPLES = 25_600  # as many as the paper took; a decomposition of more is slow and changes little


def rankme(features: Shaped[np.ndarray, "n d"], eps: float = 1e-7) -> float:
    """Effective rank: exp of the entropy of the singular values' shares (Garrido et al., 2023, 2210.02885).

    Between 1 (all features on one line) and min(n, d). Not centred, as in the paper (Eq. 1-2).
    """
    return _effective_rank(np.linalg.svd(features.astype(np.float64), compute_uv=False), eps)


def lidar(views: Shaped[np.ndarray, "n q d"], delta: float = 1e-4, eps: float = 1e-7) -> float:
    """Effective rank of the discriminant matrix whose classes are single samples (Thilak et al., 2023, 2312.04000).

    exp of the entropy of the eigenvalues' shares of W^-1/2 B W^-1/2, where B is the covariance of the samples' means
    and W that of the views about their sample's mean, plus delta on its diagonal (Sec. 3, Eq. 1-5; Algorithm 1).
    Between 1 and min(n - 1, d). What differs between views of one sample counts for nothing here, while in RankMe it
    counts like all else. Values compare at the same n and q only.

    Args:
      views: features of q augmented views of each of n samples.
    """
    x = views.astype(np.float64)
    d = x.shape[2]
    means = x.mean(axis=1)
    off = means - means.mean(axis=0, keepdims=True)
    inside = (x - means[:, None]).reshape(-1, d)
    between, within = off.T @ off / len(off), inside.T @ inside / len(inside) + delta * np.eye(d)
    return _effective_rank(np.maximum(scipy.linalg.eigh(between, within, eigvals_only=True), 0.0), eps)


def _effective_rank(values: Float[np.ndarray, " r"], eps: float) -> float:
    share = values / max(values.sum(), np.finfo(np.float64).tiny) + eps
    return float(np.exp(-(share * np.log(share)).sum()))


def spread(features: Shaped[np.ndarray, "n d"]) -> float:
    """Deviation per feature of unit-length vectors, averaged and times sqrt(d) (Chen & He, 2021, Fig. 2).

    1 for vectors spread evenly over the sphere, 0 where all samples have the same direction.
    """
    x = unit(features).astype(np.float64)
    return float(x.std(axis=0).mean() * np.sqrt(x.shape[1]))


def health(features: Shaped[np.ndarray, "n d"]) -> dict[str, float]:
    """What one set of features says, by the names under which it is logged; of at most RANKME_SAMPLES of them."""
    if len(features) > RANKME_SAMPLES:
        features = features[np.linspace(0, len(features) - 1, RANKME_SAMPLES).astype(int)]
    return {"rankme": rankme(features), "spread": spread(features)}
