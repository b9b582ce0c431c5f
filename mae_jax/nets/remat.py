"""What rematerialisation keeps for the backward pass, by `Compute.remat`."""

from collections.abc import Callable
from typing import Any

import jax

from mae_jax.nets.fp8 import PRODUCT

Policy = Callable[..., Any]


def _either(dots: Policy, named: Policy) -> Policy:
    """`dots`, and what has a name by `named`: of a product in float8 its rounded result, not the float32 sum, which
    nothing needs then."""
    return lambda primitive, *rest, **options: (named if primitive.name == "name" else dots)(
        primitive, *rest, **options
    )


_PLACES = ("device", "pinned_host")
_policies = jax.checkpoint_policies
POLICIES: dict[str, Policy | None] = {
    "dots": _either(_policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(PRODUCT)),
    "full": None,
    "offload": _either(
        _policies.offload_dot_with_no_batch_dims(*_PLACES),
        _policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[], names_which_can_be_offloaded=[PRODUCT],
            offload_src=_PLACES[0], offload_dst=_PLACES[1],
        ),
    ),
}  # fmt: skip
