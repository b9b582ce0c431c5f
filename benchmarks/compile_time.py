"""How long the train step of a config takes to compile, from a cold start: on this machine, or for a TPU slice.

    python benchmarks/compile_time.py --config configs/mae/vit_l16_imagenet.py --config.mesh.scan=True
    python benchmarks/compile_time.py --config configs/mae/vit_l16_imagenet.py --config.mesh.scan=True \
        --config.mesh.remat=dots --config.mesh.fsdp=32 --topology v5e:4x8 --json out.json

Tracing and compiling are told apart; jax's compilation cache is off. Wall seconds mean something on an idle machine
only, so the process's own CPU seconds stand beside them. With a topology no TPU is needed, only its compiler
(pip install libtpu). The bar of the project: the scanned ViT-L step in 60 s on an idle machine of 2 cores.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def compiled(lowered: Any) -> Any:
    """The program of a lowered step, compiled anew.

    Raises:
      TooLarge: it does not fit the devices' memory, said by the compiler.
    """
    import jax

    from mae_jax.ahead import program
    from mae_jax.ahead.topology import uncached

    try:
        with uncached():
            return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if (said := program.exhausted(str(error))) is None:
            raise
        raise TooLarge(said[0]) from None


def measure(spec: str, overrides: Sequence[str], to: str) -> dict[str, Any]:
    """{"trace_s", "compile_s", "trace_cpu_s", "compile_cpu_s"} of one cold compilation."""
    import jax
    from train_step import hardware, versions

    from mae_jax.ahead import step
    from mae_jax.ahead.topology import topology

    devices = topology(to)
    run = step.make_run(step.ask(spec, overrides), devices.devices)
    times = [(time.perf_counter(), time.process_time())]
    lowered = step.trace(run).lower()
    times.append((time.perf_counter(), time.process_time()))
    compiled(lowered)
    times.append((time.perf_counter(), time.process_time()))
    found: dict[str, Any] = {"target": devices.kind if to == "local" else to}
    for name, (w0, c0), (w1, c1) in zip(("trace", "compile"), times, times[1:]):
        found |= {f"{name}_s": round(w1 - w0, 1), f"{name}_cpu_s": round(c1 - c0, 1)}
    found |= {"load_average": os.getloadavg()[0], "hardware": hardware(jax.devices()), "versions": versions()}
    return found | {"config": run.config.to_dict()}


def table(found: dict[str, Any]) -> str:
    return (
        f"for {found['target']}: traced in {found['trace_s']} s ({found['trace_cpu_s']} s of CPU), compiled in "
        f"{found['compile_s']} s ({found['compile_cpu_s']} s of CPU), load average {found['load_average']:.1f}"
    )


class TooLarge(Exception):
    """The step does not fit."""


def answer(
    script: str, description: str | None, topology: str, argv: list[str],
    measure: Callable[[str, Sequence[str], str], dict[str, Any]], say: Callable[[dict[str, Any]], str],
) -> int:  # fmt: skip
    """Parse, measure, print, write the record -> the exit status, of any benchmark that compiles a step.

    Args:
      topology: what it is compiled for if nothing else is asked.
    """
    from mae_jax.commands.options import OVERRIDES_HELP, split_overrides
    from mae_jax.core.errors import UserError
    from mae_jax.core.exits import BAD_INPUT, DONE, TOO_LARGE

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=OVERRIDES_HELP, formatter_class=raw)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="a config file of mae_jax train")
    parser.add_argument(
        "--topology", default=topology, help=f"a TPU slice, as v5e:4x8, or local for what is here (default {topology})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here, with versions")
    try:
        rest, overrides = split_overrides(argv)
        args = parser.parse_args(rest)
        found = measure(args.config, overrides, args.topology)
    except UserError as error:
        print(f"{script}: {error}", file=sys.stderr)
        return BAD_INPUT
    except TooLarge as error:
        print(
            f"{script}: it does not fit ({error}). `mae_jax compile --config {args.config} --topology "
            f"{args.topology} --fit` finds settings that do.",
            file=sys.stderr,
        )
        return TOO_LARGE
    print(f"{args.config} {say(found)}")
    if args.json:
        from train_step import write_record

        write_record(args.json, [f"benchmarks/{script}", *argv], found)
    return DONE


def main(argv: list[str] | None = None) -> int:
    """Print the seconds, and write them as JSON if asked."""
    argv = sys.argv[1:] if argv is None else argv
    return answer("compile_time.py", __doc__, "local", argv, measure, table)


if __name__ == "__main__":
    sys.exit(main())
