"""A config against the machine: memory, disk, data."""

import shutil
import time
from pathlib import Path

import jax

from mae_jax.core import tree
from mae_jax.core.chips import peak_flops
from mae_jax.core.mesh import batch_shards
from mae_jax.doctor.devices import device_memory
from mae_jax.doctor.lines import Line, State, size
from mae_jax.doctor.machine import existing, host_memory, unwritable
from mae_jax.train.build import Run

SPARE = 2  # checkpoints beyond checkpoint.keep: the one that is being written, and the best one
TIGHT = 0.8  # share of a device's memory beyond which activations will hardly find room
USED = 0.4  # share of its peak (MFU) that a chip is expected to reach, for the rate that data must keep up with
SECONDS = 4.0  # of reading
BATCHES = 8


def state_bytes(run: Run) -> int:
    """Of the whole train state."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.shapes))


def bytes_per_device(run: Run) -> dict[str, int]:
    """Bytes on one device before any activation: the state, its frozen networks, gradients, two batches."""

    def shard(leaf) -> int:
        shape = leaf.sharding.shard_shape(leaf.shape)
        return tree.size(jax.ShapeDtypeStruct(shape, leaf.dtype)) * leaf.dtype.itemsize

    total = lambda part: sum(shard(leaf) for leaf in jax.tree.leaves(part))
    rows = -(-run.config.train.batch // batch_shards(run.mesh))
    batch = 0
    for leaf in run.leaves.values():
        one = tree.size(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)) * jax.numpy.dtype(leaf.dtype).itemsize
        batch += one * (rows if leaf.batched else 1)
    return {
        "state": total(run.shapes), "gradients": total(run.shapes["params"]), "frozen": total(run.frozen_shapes),
        "batches": 2 * batch,
    }  # fmt: skip


def mesh(run: Run) -> list[Line]:
    """The mesh that the config makes of the devices."""
    axes = " x ".join(f"{name} {n}" for name, n in run.mesh.shape.items())
    return [Line("ok", "mesh", f"{axes} = {run.mesh.size} device(s), {run.config.train.batch} samples a step")]


def memory(run: Run) -> list[Line]:
    """Device and host memory against what is known by formula; what activations take, `mae_jax compile` counts."""
    parts = bytes_per_device(run)
    need, here = sum(parts.values()), jax.local_devices()
    said = f"{size(need)} per device before activations (" + ", ".join(f"{k} {size(n)}" for k, n in parts.items()) + ")"
    host, _ = host_memory()
    most, of = device_memory(here[0]), "of the device"
    if most is None:  # a CPU's devices share what the host has
        most, of = host // len(here), "of the host for each device"
    lines = []
    mend = "--config.mesh.fsdp=N splits the state over N devices; --config.train.microbatches, or more devices"
    state: State = "bad" if need > most else "warn" if need > TIGHT * most else "ok"
    lines.append(Line(state, "device memory", f"{said}; {size(most)} {of}", "" if state == "ok" else mend))
    copy = sum(parts[k] for k in ("state",)) * len(here)
    ready = run.config.data.memory_mb << 20
    if copy + ready > host:
        said = f"{size(copy)} for a checkpoint on its way to disk and {size(ready)} of batches, {size(host)} free"
        lines.append(Line("warn", "host memory", said, "--config.data.memory_mb=256, or a larger machine"))
    else:
        lines.append(Line("ok", "host memory", f"{size(copy + ready)} for a checkpoint and batches, {size(host)} free"))
    return lines


def disk(run: Run, workdir: Path | None) -> list[Line]:
    """Room for the checkpoints to come, and that the workdir can be written."""
    keep, one = run.config.checkpoint.keep, state_bytes(run)
    need = one * (keep + SPARE)
    said = f"{keep + SPARE} checkpoints of {size(one)}: {size(need)}"
    if workdir is None:
        return [Line("ok", "disk", f"{said} (name the --workdir to have its disk looked at)")]
    problem = unwritable(workdir)
    if problem:
        return [
            Line("bad", "disk", f"{workdir}: {problem}", "name another --workdir, or mend its permissions or its disk")
        ]
    free = shutil.disk_usage(existing(workdir)).free
    there = sum(f.stat().st_size for f in (workdir / "checkpoints").rglob("*") if f.is_file())
    said += f"; {size(free)} free at {existing(workdir)}" + (f" beside {size(there)} of this run's" if there else "")
    if free + there < need:
        mend = "make room, or another --workdir; --config.checkpoint.keep=1 needs less"
        return [Line("bad", "disk", said, mend)]
    return [Line("warn" if free + there < 2 * need else "ok", "disk", said, "little room for logs and pictures"
                 if free + there < 2 * need else "")]  # fmt: skip


def data(run: Run) -> list[Line]:
    """A few batches through the real pipeline, and their rate against what a step needs where that is known."""
    from mae_jax.train.feed import train_batches

    source = run.open("train")
    begin = time.perf_counter()
    with train_batches(run, source, 0) as batches:
        next(batches)
        first = time.perf_counter() - begin
        begin, count = time.perf_counter(), 0
        while count < BATCHES and time.perf_counter() - begin < SECONDS:
            next(batches)
            count += 1
        rate = count * run.config.train.batch / (time.perf_counter() - begin)
        bad = len(batches.problems.found)
    lines = []
    said = f"{source.describe()}; {rate:,.0f} samples/s after the first batch ({first:.1f} s)"
    need = needed(run)
    if need is not None and rate < need:
        mend = "`mae_jax data --config C` shows what is slow; --config.data.workers=N, or shards by `mae_jax prepare`"
        lines.append(
            Line("warn", "data", f"{said}, and a step at {USED:.0%} of the chips' peak takes {need:,.0f}", mend)
        )
    else:
        wanted = "" if need is None else f", {need:,.0f} needed at {USED:.0%} of the chips' peak"
        lines.append(Line("ok", "data", said + wanted))
    if bad:
        lines.append(
            Line("warn", "data", f"{bad} records could not be read", "they are named above; mend or remove them")
        )
    return lines


def needed(run: Run) -> float | None:
    """Samples/s that the step of all devices takes at `USED` of their peak; None where peak or cost are unknown."""
    cost, peak = run.method.cost(), peak_flops(jax.devices()[0].device_kind)
    if cost is None or peak is None:
        return None
    return USED * peak * run.mesh.size / cost.step
