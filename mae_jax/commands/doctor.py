"""`mae_jax doctor`."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from mae_jax.commands import options
from mae_jax.core.exits import DONE, FAILED

HELP = "look over this machine, and whether a config will run on it"

DESCRIPTION = """\
Look at what a run depends on, and say of each thing whether it is ok, and how to mend it if not: versions, the pieces
that come with the package, devices (a product of matrices on each, a sum over all), memory, limits of the system,
shared memory, the cache of compiled programs; of several processes also their clocks, versions and devices.

With --config: the mesh, the memory that the state takes, and the data, by reading some through the real pipeline. With
--workdir: the room for the checkpoints to come. Several processes are started as `mae_jax train` starts them; process 0
prints what all of them found.

exit status: 0 where nothing is bad (there may be warnings), 1 where something is.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    parser.add_argument("--config", metavar="FILE[:ARG]", help="config file: .py (code) or .json (data)")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="where the run is, or will be")
    options.add_processes(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    from mae_jax.doctor.lines import Line, gathered

    lines: list[Line] = []
    config: Any = None
    if args.config is None and args.workdir is not None and (args.workdir / "config.json").is_file():
        args.config = str(args.workdir / "config.json")
    if args.config is not None:
        config = options.from_file(args.config, args.overrides)
    options.start_processes(args)
    options.compile_cache()
    import jax

    from mae_jax.doctor import devices, hosts, machine

    workers = 0 if config is None else config.data.workers
    for what, check in (
        ("versions", machine.versions), ("bundled", machine.bundled), ("decoders", machine.decoders),
        ("devices", devices.seen), ("matmul", devices.products), ("memory", machine.memory),
        ("compile cache", lambda: machine.compile_cache(jax.config.values["jax_compilation_cache_dir"])),
    ):  # fmt: skip
        lines += gathered(what, check)
    together = gathered("collective", devices.collectives)
    lines += together
    reached = all(line.state == "ok" for line in together)
    ready = 0 if config is None else config.data.memory_mb << 20
    lines += gathered("shared memory", lambda: machine.shared_memory(workers, ready))
    written = 0
    if config is not None:
        of_run, written = _of_run(config, args.workdir, reached)
        lines += of_run
    lines += gathered("limits", lambda: machine.limits(workers, written))
    agreed: list[Line] = []
    if reached:
        agreed = gathered("hosts", lambda: hosts.agree(_fingerprint(config)))
    status = _report(lines, agreed, reached)
    if not reached:  # a process that hangs in a collective cannot be ended politely
        sys.stdout.flush()
        os._exit(status)
    return status


def _of_run(config: Any, workdir: Path | None, reached: bool) -> tuple[list[Any], int]:
    """(lines of what a config needs, bytes of a checkpoint)."""
    from mae_jax.core.errors import UserError
    from mae_jax.doctor import run as needs
    from mae_jax.doctor.lines import Line, gathered
    from mae_jax.train.build import build

    try:
        run = build(config)
    except UserError as error:
        return [Line("bad", "config", str(error))], 0
    lines = gathered("mesh", lambda: needs.mesh(run))
    if config.transfer.task != "none":
        said = f"of `mae_jax {config.transfer.task}`: looked at as pretraining, without its head"
        lines.append(Line("warn", "config", said, "its state is smaller: what is said of memory and disk is enough"))
    lines += gathered("memory", lambda: needs.memory(run))
    lines += gathered("disk", lambda: needs.disk(run, workdir))
    if reached:
        lines += gathered("data", lambda: needs.data(run))
    return lines, needs.state_bytes(run)


def _fingerprint(config: Any) -> str:
    """A short hash of a resolved config, which all processes must have; "" without one."""
    import hashlib
    import json

    if config is None:
        return ""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True, default=str).encode()).hexdigest()[:12]


def _report(lines: list[Any], agreed: list[Any], reached: bool) -> int:
    """Print everybody's lines on process 0; the exit status, the same one on all."""
    import dataclasses
    import socket

    import jax

    from mae_jax.doctor.hosts import everyone
    from mae_jax.doctor.lines import Line

    mine = {"host": socket.gethostname(), "lines": [dataclasses.astuple(line) for line in lines]}
    found = everyone(mine) if reached else [mine]
    several = len(found) > 1
    everything = [(x["host"], i, Line(*line)) for i, x in enumerate(found) for line in x["lines"]]
    shown = [(host, i, line) for host, i, line in everything if i == 0 or line.state != "ok"]
    if jax.process_index() == 0 or not reached:
        for line in agreed:
            print(line.text())
        for host, i, line in shown:
            print(line.text(f"{host}, process {i}" if several and (line.state != "ok") else ""))
    states = [line.state for _, _, line in everything] + [line.state for line in agreed]
    bad, warn = states.count("bad"), states.count("warn")
    if jax.process_index() == 0 or not reached:
        print(f"\n{bad} bad, {warn} to be warned of, {states.count('ok')} ok")
    return FAILED if bad else DONE
