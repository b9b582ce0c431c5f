"""FLOPs of a traced function, counted: what closed formulas are held against."""

from typing import Any

import numpy as np


def dot_flops(jaxpr: Any) -> float:
    """2 x the multiply-adds of all dot products and convolutions, inner jaxprs included.

    Loops count by their length, what every device computes by itself (shard_map) by the number of devices, a kernel by
    what it says of itself.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            inner = np.prod([eqn.invars[0].aval.shape[i] for i in contracted])
            total += 2.0 * inner * np.prod(eqn.outvars[0].aval.shape)
        if name == "conv_general_dilated":
            kernel, spread = eqn.invars[1].aval.shape, np.prod(params["lhs_dilation"])  # spread: with zeros between
            inner = np.prod(kernel) / kernel[params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * inner * np.prod(eqn.outvars[0].aval.shape) / spread
        if name == "pallas_call" and params.get("cost_estimate") is not None:
            total += params["cost_estimate"].flops
            continue
        times = params["length"] if name == "scan" else 1
        if name == "shard_map":
            manual = params.get("newly_manual_axes", params.get("manual_axes", ()))  # by jax version
            times = int(np.prod([params["mesh"].shape[axis] for axis in manual]))
        total += times * sum(_inside(value) for key, value in params.items() if key != "branches")
        total += max(map(_inside, params.get("branches", ())), default=0.0)
    return total


def _inside(value: Any) -> float:
    jaxpr = getattr(value, "jaxpr", value)
    return dot_flops(jaxpr) if hasattr(jaxpr, "eqns") else 0.0
