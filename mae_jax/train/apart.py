"""The gradient of a batch whose samples do not hang together: every device on its own rows, then one sum.

A device's share is to a batch in space what a microbatch is in time: both ways the step returns sum(w g) / sum(w). So
the gradient crosses the network once per step, whatever the number of microbatches. XLA alone, given the global
program, sums every microbatch's gradient over the devices.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mae_jax.core import gather, tree
from mae_jax.core.mesh import AXES, BATCH, state_shardings, use_mesh
from mae_jax.methods.base import Method
from mae_jax.train.sums import Sums, accumulate


def independent(method: Method, stats: Any) -> bool:
    """Whether a part of a batch has the loss that it has within the batch: nothing ties the samples together."""
    return (
        all(leaf.batched for leaf in method.batch_spec.values()) and not method.couples and not jax.tree.leaves(stats)
    )


def accumulate_apart(
    loss: Callable, params: Any, held: Any, batch: Any, microbatches: int, *, mesh: Mesh, dtype: Any,
    stacks: Mapping[str, int], rules: Sequence[tuple[str, str]], by_step: bool | None = None, wire: str = "float32",
) -> Sums:  # fmt: skip
    """What `accumulate` returns, of global arrays, computed by every device on its own rows.

    Args:
      loss: as for `accumulate`.
      dtype: in which a block's matrices are used, and therefore gathered.
      stacks: whose gradients stay stacked, as for `accumulate`.
      rules: by which parameters and frozen networks lie (core/mesh.py).
      by_step: make what fsdp splits whole once per step, for all microbatches, instead of layer by layer in each (and
        once more in the backward pass under remat); None: where there are microbatches.
      wire: the precision in which gradients travel.
    """
    by_step = microbatches > 1 if by_step is None else by_step
    read = {"params": params, "held": held}
    lies = {path: s.spec for path, s in tree.flatten(state_shardings(read, mesh, rules)).items()}
    split = {path: spec for path, spec in lies.items() if "fsdp" in spec}
    in_layers = layers_of(loss, read, batch) if split else set()
    # Teachers are gathered at once: some are also read beside their stack of blocks (MaskAlign's last attention).
    waits = lambda path: path in in_layers and path.startswith("params/")
    late = {} if by_step else {path: spec for path, spec in split.items() if waits(path)}

    def ready(path: str, x: jax.Array) -> jax.Array:
        if path not in split or path in late:
            return x
        return gather.gather(x, split[path], dtype if path in in_layers and x.ndim > 1 else x.dtype)

    def of_parts(params, stats, held, part, rows):
        """The loss of parameters that are parts yet: what it gathers, its gradient scatters."""
        whole = tree.map_with_path(ready, {"params": params, "held": held})
        with gather.waiting(tree.flatten(whole), late):
            return loss(whole["params"], stats, whole["held"], part, rows)

    def total(path: str, g: jax.Array) -> jax.Array:
        own = f"params/{path.replace(tree.LAYERS, '0')}"  # layers lie alike
        if own in split and by_step:
            scatter = lambda g: gather.scatter(g, split[own])
            # One layer after the other: a stack at once would be copied whole.
            g = jnp.stack([scatter(layer) for layer in g]) if tree.LAYERS in path else scatter(g)
        axes = "data" if own in split else BATCH
        return jax.lax.psum(g.astype(wire), axes).astype("float32")

    def local(read, batch, rows):
        with use_mesh(mesh, apart=True, wire=wire):
            if by_step:
                read = tree.map_with_path(ready, read)
            own = loss if by_step else of_parts
            g, _, metrics, w = accumulate(own, read["params"], {}, read["held"], batch, microbatches, rows, stacks)
            return tree.map_with_path(total, g), jax.lax.psum((metrics, w), BATCH)

    seen = lambda spec: PartitionSpec(*("fsdp" if name == "fsdp" else None for name in spec))
    specs = tree.map_with_path(lambda path, _: seen(lies[path]), read)
    layered = tree.stack_layers(specs["params"], stacks, lambda layers: PartitionSpec(None, *layers[0]))
    rows = PartitionSpec(BATCH)
    run = jax.shard_map(
        local, mesh=mesh, in_specs=(specs, rows, rows), out_specs=(layered, PartitionSpec()),
        axis_names=set(AXES if mesh.shape["tensor"] == 1 else BATCH), check_vma=False,
    )  # fmt: skip
    n = len(jax.tree.leaves(batch)[0])
    g, (metrics, w) = run(read, batch, jnp.arange(n))
    return Sums(g, {}, metrics, w)


def without_fsdp(read: Any, mesh: Mesh, rules: Sequence[tuple[str, str]]) -> Any:
    """Arrays that fsdp splits made whole along it, for methods that run as one global program.

    Left to itself, XLA looks for products that need no gathering, and with all three axes in use it has got one wrong
    (jax 0.10.2, CPU: CROMA's loss on 2 x 2 x 2 devices came out 4 % too high; tests/methods/test_every_device.py).
    """
    if mesh.shape["fsdp"] == 1:
        return read
    whole = lambda s: NamedSharding(mesh, PartitionSpec(*(None if name == "fsdp" else name for name in s.spec)))
    lies = jax.tree.map(whole, state_shardings(read, mesh, rules))
    return jax.lax.with_sharding_constraint(read, lies)


def layers_of(loss: Callable, read: Any, batch: Any) -> set[str]:
    """The paths of what stacks of blocks use, which gather it themselves: found by tracing the loss once."""
    found: set[str] = set()

    def look(read, batch):
        with gather.asked_for(tree.flatten(read), found):
            return loss(read["params"], {}, read["held"], batch, jnp.arange(len(jax.tree.leaves(batch)[0])))

    jax.eval_shape(look, read, jax.tree.map(lambda x: x[:1], batch))
    return found
