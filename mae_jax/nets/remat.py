"""What rematerialisation keeps for the backward pass, by `Compute.remat`.

jax rounds what it keeps (`reduce_precision`), so that the program cannot go on with more digits than were kept. Where a
kernel stands on one side, that is a pass over memory by itself, several per cent of a ViT-L's step by the TPU
compiler's estimate. So beside kernels what is kept is a copy by name, which nothing but the gradient reads, and which
jax leaves alone.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from mae_jax.nets.compute import Compute
from mae_jax.nets.fp8 import PRODUCT

Policy = Callable[..., Any]
ATTENDED = "attended"  # the name of what a fused kernel of attention gives
_policies = jax.checkpoint_policies


def policy(compute: Compute) -> Policy | None:
    """The policy of `jax.checkpoint`; None keeps nothing.

    "dots" and "offload" keep the results of products without batch axes, of a product in float8 the rounded one (its
    float32 sum is then of no use), and that of a fused kernel of attention, whose gradient needs no more: but not in a
    loop, where to write it into the stack of all layers and to read it there costs more than the kernel again.
    """
    names = [PRODUCT] if compute.scan else [PRODUCT, ATTENDED]
    if compute.remat == "dots":
        return _either(_policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(*names))
    if compute.remat == "offload":
        return _either(
            _policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
            _policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[], names_which_can_be_offloaded=names,
                offload_src="device", offload_dst="pinned_host",
            ),
        )  # fmt: skip
    return None


def _either(dots: Policy, named: Policy) -> Policy:
    """`dots`, and what has a name by `named`."""
    return lambda primitive, *rest, **options: (named if primitive.name == "name" else dots)(
        primitive, *rest, **options
    )


def _product(x: Array, w: Array) -> Array:
    return jax.lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))


def _backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = kept
    rows = tuple(range(g.ndim - 1))
    return (
        jax.lax.dot_general(g, w, (((g.ndim - 1,), (1,)), ((), ()))),
        jax.lax.dot_general(x, g, ((rows, rows), ((), ()))),
    )


_of_attended = jax.custom_vjp(_product)
_of_attended.defvjp(lambda x, w: (_product(x, w), (checkpoint_name(x, ATTENDED), w)), _backward)


def dot_general_of_attended(x: Array, w: Array, dims: Any, *_: Any, **__: Any) -> Array:
    """`lax.dot_general` of the linear layer behind a kernel of attention: x [..., d], w [d, e]."""
    assert dims == (((x.ndim - 1,), (0,)), ((), ())), dims
    return _of_attended(x, w)
