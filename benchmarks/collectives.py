"""What a train step moves between devices, mesh by mesh: docs/parallelism.md's formulas against the compiled program.

    python benchmarks/collectives.py --topology v5e:2x4 "mesh.data=8" "mesh.fsdp=8 train.microbatches=4"

Compiles a small MAE (14.7 MB of float32 parameters, bfloat16 compute) for devices that need not be there. `mae_jax
compile` says the same of any config; this is small so that many meshes take minutes.
"""

import argparse
import json

import jax

from mae_jax.ahead import step
from mae_jax.ahead.collectives import collectives, totals
from mae_jax.ahead.topology import topology
from mae_jax.config import resolve
from mae_jax.core import tree
from mae_jax.train.build import build

SMALL = {
    "method": dict(
        name="mae", image_size=64, patch=8, dim=256, depth=4, heads=8, decoder_dim=128, decoder_depth=2, decoder_heads=8
    ),
    "data": {"source": "digits"},
    "train": dict(batch=64, precision="bfloat16"),
    "eval": dict(batch=64),
}


def main() -> None:
    """Print a line per kind and axis for every mesh named on the command line, and JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", nargs="+", metavar="'KEY=VALUE ...'", help="overrides of one run, in quotes")
    parser.add_argument("--topology", default="v5e:2x4")
    args = parser.parse_args()
    devices, out = list(topology(args.topology).devices), {}
    for overrides in args.meshes:
        run = build(resolve(SMALL, overrides.split()), devices)
        found = totals(collectives(step.trace(run).lower().compile(), run.mesh))
        parameters = 4 * tree.size(run.shapes["params"])
        print(f"{overrides}  (parameters: {parameters / 1e6:.3f} MB in float32)")
        for (kind, axis), (count, size) in found.items():
            print(f"  {kind:20} {axis:12} {count:4} x  {size / 1e6:9.3f} MB  {size / parameters:8.4f} P", flush=True)
        out[overrides] = {f"{kind} {axis}": found[kind, axis] for kind, axis in found}
    print(json.dumps({"topology": args.topology, "jax": jax.__version__, "counts and bytes": out}))


if __name__ == "__main__":
    main()
