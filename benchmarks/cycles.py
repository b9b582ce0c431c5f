"""What the TPU's compiler itself thinks a train step costs, in cycles of the chip; needs no TPU (pip install libtpu).

    python benchmarks/cycles.py --config configs/mae/vit_l16_imagenet.py --topology v5e:4x8 \
        --config.mesh.scan=True --config.mesh.remat=dots --config.mesh.fsdp=32

It sums the estimated_cycles that the compiler writes beside each operation of the optimised program, as often as it
runs. For kernels (mesh.attention=lanes) it writes none: there the instructions of the compiled kernel are counted, as
often as its grid and loop run them. Neither knows of waiting for memory that is not hidden, nor of the network, so
this **is an estimate and no measurement**: it says which of two programs the compiler holds to be faster, and where
its cycles go.
"""

import collections
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from compile_time import answer, compiled

KERNEL = "attention_lanes"
CLOCK = {"v5e": 1.5e9}  # Hz: 197 TFLOP/s / (4 units of 128 x 128 products, 2 FLOP each)


def costs(text: str, kernel: Callable[[str], int]) -> Iterator[tuple[str, str, int, int]]:
    """(loop, what, cycles, how often it runs) of each operation of a program's text for which there is an estimate.

    Args:
      kernel: the cycles of one of our kernels, by its name in the program.
    """
    from mae_jax.ahead.hlo import Program, executed

    for found in executed(Program(text)):
        i = found.instruction
        if found.fused:
            continue
        loop = found.where.rpartition("/")[2]
        if estimate := re.search(r'"estimated_cycles":"(\d+)"', i.rest):
            yield loop, re.sub(r"^.*(closed_call|while/body|jit\(step\))/", "", i.source), int(estimate[1]), found.times
        elif i.opcode == "custom-call" and i.name.startswith(KERNEL):
            yield loop, _kind(i.name), kernel(i.name), found.times


def scheduled(name: str, text: str, folder: Path, turns: dict[tuple[int, ...], int]) -> int:
    """Instructions of a kernel, from the compiler's file on it, times the turns of its grid and loop.

    Args:
      turns: by the shape that the kernel writes.
    """
    shapes = dict(re.findall(rf"%({KERNEL}[\w.]+) = \(?\w+\[([\d,]+)\]", text))
    alike = [name, *(other for other in shapes if shapes[other] == shapes[name] and _kind(other) == _kind(name))]
    for one in alike:  # the compiler schedules kernels that are the same once
        for file in folder.glob(f"*-{one}-*schedule-analysis_final_bundles.txt"):
            if bundles := re.search(r"total scheduled bundles:\s+(\d+)", file.read_text()):
                return int(bundles[1]) * turns[tuple(int(n) for n in shapes[name].split(","))]
    raise SystemExit(f"cycles.py: libtpu wrote no schedule of {name}; it was written for libtpu 0.0.52.")


def _kind(kernel: str) -> str:
    return re.sub(r"\.\d+$", "", kernel)


def counted() -> dict[tuple[int, ...], int]:
    """A dict that the kernels fill while they are traced: {what a kernel writes: turns of its grid and loop}."""
    from mae_jax.nets import attention_lanes

    found: dict[tuple[int, ...], int] = {}
    cut_of = attention_lanes.Cut.of

    def recorded(qkv: Any, heads: int, arrays: int) -> Any:
        cut = cut_of(qkv, heads, arrays)
        backward = arrays > 4
        found[(*qkv.shape[:2], qkv.shape[2] if backward else cut.inner)] = (
            cut.grid[0] * cut.grid[1] * (cut.rows // cut.together)
        )
        return cut

    attention_lanes.Cut.of = recorded  # type: ignore[method-assign]
    return found


def measure(spec: str, overrides: Sequence[str], to: str) -> dict[str, Any]:
    """{"cycles", "seconds", "mfu", "by_loop", "top", ...} of the step of a config, compiled for a slice."""
    from train_step import versions

    from mae_jax.ahead import program, step
    from mae_jax.ahead.topology import topology
    from mae_jax.core.chips import chip
    from mae_jax.core.errors import UserError

    if to == "local":
        raise UserError("the estimates are a TPU compiler's: give --topology, as v5e:4x8.")
    with tempfile.TemporaryDirectory(prefix="mae_jax_cycles_") as name:
        folder = Path(name)
        dump = {"to": folder, "llo_text": "true", "llo_pass_label_regex": "final.*", "to_filter": KERNEL}
        flags = " ".join(f"--xla_jf_dump_{key}={value}" for key, value in dump.items())
        given = os.environ.get("LIBTPU_INIT_ARGS", "")
        os.environ["LIBTPU_INIT_ARGS"] = f"{given} {flags}".strip()  # libtpu reads it when it starts
        turns = counted()
        run = step.make_run(step.ask(spec, overrides), topology(to).devices)
        made = compiled(step.trace(run).lower())
        text = made.as_text()
        found = list(costs(text, lambda name: scheduled(name, text, folder, turns)))
    by_loop: collections.Counter[str] = collections.Counter()
    by_name: collections.Counter[str] = collections.Counter()
    for loop, what, cycles, times in found:
        by_loop[f"{loop} x {times}"] += cycles * times
        by_name[what] += cycles * times
    total, kind = sum(by_loop.values()), chip(to)
    seconds = total / CLOCK[kind.name] if kind is not None and kind.name in CLOCK else None
    flops = program.formula_flops(run)
    mfu = flops / seconds / kind.peak_flops if seconds and flops and kind else None
    return {
        "target": to, "cycles": total, "seconds": seconds, "mfu": mfu, "peak_bytes": program.memory_of(made).peak,
        "by_loop": dict(by_loop.most_common(8)),
        "top": dict(by_name.most_common(25)), "versions": versions(), "config": run.config.to_dict(),
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    total = found["cycles"]
    lines = [f"for {found['target']}: {total / 1e6:.1f} million cycles by the compiler's estimate"]
    if found["seconds"]:
        lines[0] += f", {found['seconds'] * 1e3:.0f} ms"
    if found["mfu"]:
        lines[0] += f" ({100 * found['mfu']:.0f} % of the peak)"
    lines[0] += f"; {found['peak_bytes'] / 2**30:.1f} GiB per device"
    for title in ("by_loop", "top"):
        lines += [
            f"{cycles / 1e6:10.1f} {100 * cycles / total:5.1f} %  {name}" for name, cycles in found[title].items()
        ]
        lines += [""]
    return "\n".join(lines).rstrip()


def main(argv: list[str] | None = None) -> int:
    """Print the table, and write it as JSON if asked."""
    argv = sys.argv[1:] if argv is None else argv
    return answer("cycles.py", __doc__, "v5e:4x8", argv, measure, table)


if __name__ == "__main__":
    sys.exit(main())
