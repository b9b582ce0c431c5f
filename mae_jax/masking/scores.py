"""Score fields: what each masking strategy says of every token. The lowest are kept (select.py)."""

from jaxtyping import Array, Float

from mae_jax.core.keys import Context


def random(ctx: Context, batch: int, n: int, name: str = "mask") -> Float[Array, "b n"]:
    """Independent U[0, 1) per token: uniform random masking without replacement (MAE, Sec. 3)."""
    return ctx.uniform(name, (batch, n))
