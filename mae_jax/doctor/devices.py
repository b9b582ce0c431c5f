"""The devices: what is there, whether each multiplies right, whether they add up together."""

import os
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mae_jax.core import drivers
from mae_jax.doctor.lines import Line, size

SIDE = 256  # of the matrices
CLOSE = {"float32": 1e-4, "bfloat16": 3e-2}  # largest error over the largest entry
WAIT = 60.0  # seconds in which a collective must return
EXTRA = {"gpu": "pip install 'mae_jax[cuda]'", "tpu": "pip install 'mae_jax[tpu]'"}


def seen() -> list[Line]:
    """What JAX sees, and an accelerator that it does not see."""
    devices, here = jax.devices(), jax.local_devices()
    kinds = sorted({device.device_kind for device in devices})
    said = f"{len(devices)} x {', '.join(kinds)} ({devices[0].platform})"
    said += f", {len(here)} of them here" if len(here) < len(devices) else ""
    said += _memory(here[0])
    for family in drivers.present():
        if devices[0].platform == "cpu":
            forced = os.environ.get("JAX_PLATFORMS", "")
            mend = f"unset JAX_PLATFORMS ({forced})" if forced == "cpu" else EXTRA[family]
            return [Line("warn" if forced == "cpu" else "bad", "devices", f"{said}, though a {family} is there", mend)]
    if len(kinds) > 1:
        return [Line("warn", "devices", said, "a step is as slow as the slowest: CUDA_VISIBLE_DEVICES chooses some")]
    return [Line("ok", "devices", said)]


def _memory(device: jax.Device) -> str:
    most = device_memory(device)
    return f", {size(most)} each" if most else ""


def device_memory(device: jax.Device) -> int | None:
    """Bytes that JAX may use of a device; None where the device does not say (a CPU)."""
    stats: dict[str, Any] = device.memory_stats() or {}
    return stats.get("bytes_limit")


def products() -> list[Line]:
    """A product of matrices on every device of this host, against numpy's in float64."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIDE, SIDE)).astype(np.float32) for _ in range(2))
    multiply = jax.jit(lambda x, y: jnp.matmul(x, y, precision="highest", preferred_element_type=jnp.float32))
    wrong, worst = [], 0.0
    for device in jax.local_devices():
        for dtype, close in CLOSE.items():
            x, y = (jax.device_put(m.astype(dtype), device) for m in (a, b))
            error = deviation(np.asarray(multiply(x, y)), a, b)
            worst = max(worst, error) if dtype == "float32" else worst
            if not error <= close:  # also a NaN
                wrong.append(f"{device} is off by {error:.1e} in {dtype}")
    if wrong:
        return [Line("bad", "matmul", "; ".join(wrong), "the device is broken, or its driver: leave it out and reboot")]
    return [Line("ok", "matmul", f"right on each device (float32 within {worst:.0e} of numpy's float64)")]


def deviation(product: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Largest error of a product a b, over its largest entry."""
    exact = a.astype(np.float64) @ b.astype(np.float64)
    return float(np.abs(product - exact).max() / np.abs(exact).max())


def collectives(wait: float = WAIT) -> list[Line]:
    """A sum over all devices, of all processes, against its closed form; and that it returns at all."""
    devices = jax.devices()
    n = len(devices)
    mesh = Mesh(np.array(devices), ("all",))
    rows, whole = NamedSharding(mesh, PartitionSpec("all")), NamedSharding(mesh, PartitionSpec())
    found: list[Any] = []

    def add() -> None:
        numbers = np.repeat(np.arange(1, n + 1, dtype=np.float32)[:, None], 1024, axis=1)
        x = jax.make_array_from_callback(numbers.shape, rows, lambda index: numbers[index])
        total = jax.jit(lambda x: x.sum(0), out_shardings=whole)(x)
        found.extend(np.asarray(shard.data) for shard in total.addressable_shards)

    problem = _within(add, wait)
    if problem:
        mend = "is every process started, and may they reach each other on all ports? NCCL_DEBUG=INFO says more on GPUs"
        return [Line("bad", "collective", problem, mend)]
    right = all((part == n * (n + 1) / 2).all() for part in found)
    if not right or len(found) != len(jax.local_devices()):
        return [Line("bad", "collective", f"the sum over {n} devices is wrong", "a link between devices is broken")]
    return [Line("ok", "collective", f"the sum over {n} device(s) of {jax.process_count()} process(es) is right")]


def _within(call: Callable[[], None], wait: float) -> str:
    """Why a call did not end well ("" where it did). A call that hangs is left behind in its thread."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(wait)
    if thread.is_alive():
        return f"it did not return within {wait:.0f} s"
    return f"{type(errors[0]).__name__}: {' '.join(str(errors[0]).split())[:300]}" if errors else ""
