"""Whether the train step of a config fits a TPU slice: compiled ahead of time, no TPU needed. Bytes per chip.

    pip install libtpu      # 205 MB, the TPU's compiler
    python benchmarks/fits.py --config configs/videomaev2/vit_g14.py --topology v5e:4x4 \
        --config.mesh.fsdp=16 --config.train.microbatches=64

Any `--config.section.key=value` works. The figures are the compiler's: arguments (the train state and a batch), what is
computed in between, and outputs that do not take the place of arguments. Exit code 1 where the slice is too small.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

GIB = 2**30
# HBM of a device as JAX counts them, GiB (cloud.google.com/tpu/docs; a v2 or v3 chip is two devices).
HBM = {"v2": 8, "v3": 16, "v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}


def compiled_memory(config: Any, topology: str) -> dict[str, Any]:
    """{"devices", "arguments", "temporary", "outputs", "total" in bytes per device, "seconds"} of the config's step."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    import jax
    from jax.experimental import topologies

    from mae_jax.train import inputs
    from mae_jax.train.build import build

    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    run = build(config, list(devices))
    leaves = inputs.batch_leaves(run.method.batch_spec, config.augment)
    batch = {
        name: jax.ShapeDtypeStruct((config.train.batch, *leaf.shape), leaf.dtype, sharding=run.sharding(name))
        for name, leaf in leaves.items()
    }
    start = time.perf_counter()
    lowered = run.step.lower(run.shapes, run.frozen_shapes, batch, run.method.plan(0))
    found: dict[str, Any] = {"topology": topology, "devices": len(devices), "batch": config.train.batch}
    try:
        memory = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "hbm" not in str(error).lower():
            raise
        used = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", str(error))
        said = " ".join(str(error).split())[:400] if used is None else used[0]
        total = None if used is None else float(used[1]) * 1024 ** "KMGT".index(used[2]) * 1024
        return found | {"total": total, "refused": said, "seconds": time.perf_counter() - start}
    out = max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes)
    sizes = {"arguments": memory.argument_size_in_bytes, "temporary": memory.temp_size_in_bytes, "outputs": out}
    return found | sizes | {"total": sum(sizes.values()), "seconds": time.perf_counter() - start}


def main(argv: list[str] | None = None) -> int:
    """Print bytes per device and whether they fit."""
    from mae_jax.commands.options import from_file, split_overrides

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a config file")
    parser.add_argument("--topology", default="v5e:4x4", help="as v5e:4x4, v5p:2x2x2, v6e:8x8")
    parser.add_argument("--json", type=Path)
    arguments, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(arguments)
    config = from_file(args.config, overrides)
    found = compiled_memory(config, args.topology)
    hbm = HBM[args.topology.split(":")[0]]
    fits = "refused" not in found and found["total"] <= hbm * GIB
    for part in ("arguments", "temporary", "outputs", "total"):
        if found.get(part) is not None:
            print(f"{part:10} {found[part] / GIB:8.2f} GiB per device")
    print(f"{found['refused']}" if "refused" in found else "", end="\n" if "refused" in found else "")
    print(
        f"{args.config} at batch {found['batch']} {'fits' if fits else 'does NOT fit'} {args.topology} "
        f"({found['devices']} devices of {hbm} GiB); compiled in {found['seconds']:.0f} s"
    )
    if args.json:
        args.json.write_text(json.dumps(found | {"hbm_gib": hbm, "fits": fits}, indent=1) + "\n")
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
