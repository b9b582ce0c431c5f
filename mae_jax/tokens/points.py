"""Point clouds as groups: farthest-point sampling, nearest neighbours, and back to every point.

Nothing here has a scatter or mixes samples, so that a batch split over devices costs no collective.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax.core.distances import squared_distances
from mae_jax.core.mesh import each_alone
from mae_jax.tokens.gather import gather

CENTRAL = 1e-3  # squared norm up to which a point is never chosen (pointnet2_ops' kernel, read as padding there)


def farthest(points: Float[Array, "b n 3"], count: int) -> Int[Array, "b count"]:
    """Farthest-point sampling: point 0, then always the point farthest from all that were chosen.

    As the field's CUDA kernel (pointnet2_ops): points within sqrt(CENTRAL) of the origin are passed over, save point 0;
    of equally far points the first is taken, and point 0 again where none is left. O(n) memory per step and cloud.
    """
    points = jax.lax.stop_gradient(points.astype(jnp.float32))
    allowed = jnp.square(points).sum(-1) > CENTRAL

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        least, last = state  # squared distance of each point to those chosen; the one chosen last
        least = jnp.minimum(least, _squared(points - gather(points, last[:, None])))
        last = jnp.where(allowed, least, -1.0).argmax(axis=1).astype(jnp.int32)
        return (least, last), last

    # From the data, so that the loop's carry is split over devices as they are.
    start = jnp.full_like(points[..., 0], jnp.inf), jnp.zeros_like(points[:, 0, 0], jnp.int32)
    _, chosen = jax.lax.scan(step, start, None, length=count - 1)
    return jnp.concatenate([start[1][:, None], chosen.T], axis=1)


def nearest(points: Float[Array, "b n 3"], centres: Float[Array, "b g 3"], k: int) -> Int[Array, "b g k"]:
    """The k points nearest to each centre, near to far; of equally near ones the first.

    Exact: by differences, not by |a|^2 + |b|^2 - 2ab, which cancels.
    """
    distance = squared_distances(jax.lax.stop_gradient(centres), jax.lax.stop_gradient(points))
    return each_alone(lambda d: jax.lax.top_k(-d, k)[1].astype(jnp.int32), distance)


def group(points: Float[Array, "b n 3"], count: int, k: int) -> tuple[Float[Array, "b g k 3"], Float[Array, "b g 3"]]:
    """(the k points nearest to each of `count` farthest-point centres, relative to it; the centres)."""
    centres = gather(points, farthest(points, count))
    ids = nearest(points, centres, k)
    groups = gather(points, ids.reshape(len(ids), -1)).reshape(*ids.shape, 3)
    return groups - centres[:, :, None], centres


def interpolation(points: Float[Array, "b n 3"], centres: Float[Array, "b g 3"], k: int = 3) -> Float[Array, "b n g"]:
    """Weights by which values at the centres become values at the points: rows of k weights ~ 1 / squared distance.

    PointNet++ (Qi et al. 2017, Eq. 2, p = 2), with 1e-8 under the fraction. A matrix, not a gather, whose gradient
    would be a scatter.
    """
    distance = squared_distances(points, centres)
    near = jax.nn.one_hot(nearest(centres, points, k), centres.shape[1]).sum(axis=2)
    weight = near / (distance + 1e-8)
    return weight / weight.sum(axis=2, keepdims=True)


def _squared(x: Float[Array, "b n 3"]) -> Float[Array, "b n"]:
    return jnp.square(x[..., 0]) + jnp.square(x[..., 1]) + jnp.square(x[..., 2])
