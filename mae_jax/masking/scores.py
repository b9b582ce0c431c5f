"""Score fields: what each masking strategy says of every token. The lowest are kept (select.py)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.distances import squared_distances
from mae_jax.core.keys import Context


def random(ctx: Context, batch: int, n: int, name: str = "mask") -> Float[Array, "b n"]:
    """Independent U[0, 1) per token: uniform random masking without replacement (MAE, Sec. 3)."""
    return ctx.uniform(name, (batch, n))


def weighted(ctx: Context, weights: Float[Array, "b n"], name: str = "mask") -> Float[Array, "b n"]:
    """Draw tokens one by one, without replacement, with probability proportional to `weights`; the first are kept.

    Each token waits an exponential time of rate `weights`: their order is that of torch's multinomial (Gumbel-top-k
    says the same of logarithms). Tokens of weight 0 come last.
    """
    wait = -jnp.log(jnp.maximum(ctx.uniform(name, weights.shape), jnp.finfo(jnp.float32).tiny))
    return wait / weights


def around(ctx: Context, places: Float[Array, "b n 3"], name: str = "mask") -> Float[Array, "b n"]:
    """The nearer to one random token, the higher: a block in space is hidden (Point-BERT's and Point-MAE's "block")."""
    b, n = places.shape[:2]
    chosen = jnp.minimum((ctx.uniform(name, (b,)) * n).astype(jnp.int32), n - 1)
    centre = jnp.take_along_axis(places, chosen[:, None, None], axis=1, mode="clip")
    return -squared_distances(places, centre)[:, :, 0]
