"""How long the train step of a config takes to compile, from a cold start: on this machine, or for a TPU slice.

    python benchmarks/compile_time.py --config configs/mae/vit_l16_imagenet.py --config.mesh.scan=True
    python benchmarks/compile_time.py --config configs/mae/vit_l16_imagenet.py --config.mesh.scan=True \
        --topology v5e:4x8 --json out.json

Tracing and compiling are told apart; jax's compilation cache is off. Wall seconds mean something on an idle machine
only, so the process's own CPU seconds stand beside them. With a topology no TPU is needed, only its compiler
(pip install libtpu). The bar of the project: the scanned ViT-L step in 60 s on an idle machine of 2 cores.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any


def measure(config: Any, topology: str | None) -> dict[str, Any]:
    """{"trace_s", "compile_s", "trace_cpu_s", "compile_cpu_s"} of one cold compilation."""
    if topology:
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    import jax
    from train_step import hardware, versions

    from mae_jax.train import inputs
    from mae_jax.train.build import build

    jax.config.update("jax_enable_compilation_cache", False)
    local = jax.devices()
    devices = None
    if topology:
        from jax.experimental import topologies

        devices = list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    run = build(config, devices)
    leaves = inputs.batch_leaves(run.method.batch_spec, config.augment)
    batch = {
        name: jax.ShapeDtypeStruct((config.train.batch, *leaf.shape), leaf.dtype, sharding=run.sharding(name))
        for name, leaf in leaves.items()
    }
    times = [(time.perf_counter(), time.process_time())]
    lowered = run.step.lower(run.shapes, run.frozen_shapes, batch, run.method.plan(0))
    times.append((time.perf_counter(), time.process_time()))
    lowered.compile()
    times.append((time.perf_counter(), time.process_time()))
    found: dict[str, Any] = {"target": topology or local[0].device_kind}
    for name, (w0, c0), (w1, c1) in zip(("trace", "compile"), times, times[1:]):
        found |= {f"{name}_s": round(w1 - w0, 1), f"{name}_cpu_s": round(c1 - c0, 1)}
    return found | {"load_average": os.getloadavg()[0], "hardware": hardware(local), "versions": versions()}


def main(argv: list[str] | None = None) -> int:
    """Print the seconds, and write them as JSON if asked."""
    from mae_jax.commands.options import from_file, split_overrides
    from mae_jax.core.errors import UserError

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]")
    parser.add_argument("--topology", help="a TPU slice, as v5e:4x8; without it, this machine's devices")
    parser.add_argument("--json", type=Path, metavar="FILE")
    argv = sys.argv[1:] if argv is None else argv
    try:
        rest, overrides = split_overrides(argv)
        args = parser.parse_args(rest)
        config = from_file(args.config, overrides)
        found = measure(config, args.topology)
    except UserError as error:
        print(f"compile_time.py: {error}", file=sys.stderr)
        return 2
    print(
        f"{args.config} for {found['target']}: traced in {found['trace_s']} s ({found['trace_cpu_s']} s of CPU), "
        f"compiled in {found['compile_s']} s ({found['compile_cpu_s']} s of CPU), load average "
        f"{found['load_average']:.1f}"
    )
    if args.json:
        from train_step import write_record

        write_record(args.json, ["benchmarks/compile_time.py", *argv], found | {"config": config.to_dict()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
