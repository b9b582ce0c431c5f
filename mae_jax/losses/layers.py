"""How much each layer counts where a loss sums over layers."""

import re

from mae_jax.core.errors import UserError


def layer_weights(rule: str, n: int) -> tuple[float, ...]:
    """The weights of n layers that a rule gives; layers count from 0, the first block's output.

    Raises:
      UserError: a rule that is not understood, or that asks for a layer that is not there.
    """
    found = re.fullmatch(r"(top|mid)(\d+)", rule)
    if rule == "mean":
        return (1 / n,) * n
    if rule == "out" or (found and found[1] == "top" and 1 <= int(found[2]) <= n):
        k = int(found[2]) if found else 1
        return (0.0,) * (n - k) + (1 / k,) * k
    if rule == "linear_decay" and n > 1:
        return tuple(i / (n * (n - 1) / 2) for i in range(n))
    if found and found[1] == "mid" and int(found[2]) < n:
        return tuple(float(i == int(found[2])) for i in range(n))
    raise UserError(
        f"method.layer_weights='{rule}' is no rule for {n} layers: top<k> (k from 1 to {n}), mid<k> (k from 0 to "
        f"{n - 1}), mean, out, linear_decay (of at least 2 layers)."
    )
