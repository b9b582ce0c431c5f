"""What the processes of a run must agree on, and how their lines come together."""

import json
import os
import platform
import socket
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mae_jax.doctor.lines import Line

CLOCKS = (1.0, 30.0)  # seconds by which clocks may differ: beyond the first a warning, beyond the second bad
clock: Callable[[], float] = time.time
MOST = 1 << 15  # bytes that a process can say

MUST_AGREE = ("mae_jax", "jax", "jaxlib", "numpy", "python", "config", "devices here")


def everyone(said: Any) -> list[Any]:
    """What every process says (JSON), by process. All of them must call this."""
    if jax.process_count() == 1:
        return [json.loads(json.dumps(said))]
    text = json.dumps(said).encode()
    if len(text) > MOST:
        text = json.dumps([["bad", "doctor", f"more than {MOST} bytes of lines", "run it on this host alone"]]).encode()
    padded = np.zeros(MOST, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(bytes(row).rstrip(b"\0")) for row in rows]


def agree(config_hash: str) -> list[Line]:
    """Clocks, versions and devices of all processes; a line each. All processes must call this."""
    import mae_jax

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("mae_jax doctor: clocks")  # from here on within milliseconds of each other
    mine = {
        "host": socket.gethostname(), "pid": os.getpid(), "clock": clock(), "mae_jax": mae_jax.__version__,
        "python": platform.python_version(), "config": config_hash, "devices here": len(jax.local_devices()),
    } | {name: version(name) for name in ("jax", "jaxlib", "numpy")}  # fmt: skip
    return compared(everyone(mine))


def compared(processes: Sequence[dict[str, Any]]) -> list[Line]:
    """The lines about what each process said of itself."""
    hosts = sorted({process["host"] for process in processes})
    shown = ", ".join(hosts[:8]) + (f" and {len(hosts) - 8} more" if len(hosts) > 8 else "")
    if len(processes) == 1:
        return [Line("ok", "hosts", f"one process, on {shown}")]
    lines = [Line("ok", "hosts", f"{len(processes)} processes on {len(hosts)} host(s): {shown}")]
    clocks = [process["clock"] for process in processes]
    apart = max(clocks) - min(clocks)
    middle = sorted(clocks)[(len(clocks) - 1) // 2]
    off = max(processes, key=lambda process: abs(process["clock"] - middle))
    said = f"{apart:.1f} s apart; furthest from the others: {off['host']} (process {processes.index(off)})"
    mend = "start chrony or systemd-timesyncd there: logs, leases and cloud credentials go by the clock"
    if apart > CLOCKS[0]:
        lines.append(Line("bad" if apart > CLOCKS[1] else "warn", "clocks", said, mend))
    else:
        lines.append(Line("ok", "clocks", f"within {apart:.2f} s of each other"))
    for key in MUST_AGREE:
        values: dict[str, list[str]] = {}
        for number, process in enumerate(processes):
            values.setdefault(str(process[key]), []).append(f"{process['host']} ({number})")
        if len(values) > 1:
            each = "; ".join(f"{value} on {', '.join(where[:4])}" for value, where in values.items())
            lines.append(Line("bad", "hosts", f"they differ in {key}: {each}", "give all hosts the same"))
    return lines
