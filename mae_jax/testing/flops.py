"""FLOPs of a traced function, counted: what closed formulas are held against."""

from typing import Any

import numpy as np


def dot_flops(jaxpr: Any) -> float:
    """2 x the multiply-adds of all dot products and convolutions, inner jaxprs included."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            inner = np.prod([eqn.invars[0].aval.shape[i] for i in contracted])
            total += 2.0 * inner * np.prod(eqn.outvars[0].aval.shape)
        if eqn.primitive.name == "conv_general_dilated":
            kernel, spread = eqn.invars[1].aval.shape, np.prod(eqn.params["lhs_dilation"])  # spread: with zeros between
            inner = np.prod(kernel) / kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * inner * np.prod(eqn.outvars[0].aval.shape) / spread
        for value in eqn.params.values():
            inner_jaxpr = getattr(value, "jaxpr", value)
            if hasattr(inner_jaxpr, "eqns"):
                total += dot_flops(inner_jaxpr)
    return total
