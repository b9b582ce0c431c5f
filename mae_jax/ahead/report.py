"""What `mae_jax compile` says of a step, as text and as JSON. Nothing here depends on the clock."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mae_jax.ahead import step
from mae_jax.ahead.collectives import Collective, by_masking
from mae_jax.ahead.predict import divisors
from mae_jax.ahead.program import GIB, Figures
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import batch_shards

MIB = 2**20


def text(title: str, found: Figures, notes: Sequence[str] = ()) -> str:
    """The whole report."""
    parts = [heading(title, found, notes), memory(found), work(found)]
    if found.collectives is not None:
        parts.append(collectives_table(found.collectives, parameter_bytes(found)))
    parts += [times(found), verdict(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def heading(title: str, found: Figures, notes: Sequence[str]) -> str:
    """What was compiled, for what."""
    run, t = found.run, found.topology
    config = run.config
    axes = " x ".join(f"{name} {n}" for name, n in run.mesh.shape.items())
    batch, parts = config.train.batch, config.train.microbatches
    rows = batch / batch_shards(run.mesh) / parts
    lines = [
        title,
        f"  {t.name}: {len(t.devices)} x {t.kind}, mesh {axes}",
        f"  batch {batch}: {rows:g} per device at a time" + (f", {parts} microbatches" if parts > 1 else ""),
        f"  {config.train.precision}, blocks {'as a loop' if config.mesh.scan else 'one by one'}, "
        f"remat {config.mesh.remat}",
    ]
    return "\n".join(lines + [f"  assumed: {note}" for note in notes])


def memory(found: Figures) -> str:
    """Bytes per device."""
    state = {name: size for name, size in found.state.items() if size}
    lines = ["memory per device"]
    if found.memory is not None:
        m = found.memory
        rows = {"arguments": m.arguments, "temporaries": m.temporaries, "outputs": m.outputs, "program": m.code}
        lines += [_row(name, _bytes(size)) for name, size in rows.items() if size >= MIB / 100]
        share = "" if found.limit is None else f"   of {_bytes(found.limit).strip()} ({m.peak / found.limit:.0%})"
        lines.append(_row("peak", _bytes(m.peak) + share))
    lines.append("of its arguments")
    lines += [_row(name, _bytes(size)) for name, size in state.items() if size >= MIB / 100]
    return "\n".join(lines)


def work(found: Figures) -> str:
    """FLOPs of a step."""
    lines = ["step per device"]
    if found.formula is None:
        lines.append(_row("by formula", "no formula"))
    else:
        lines.append(_row("by formula", f"{found.formula / 1e9:10,.1f} GFLOP"))
    more = "" if not found.formula else f"   {found.traced / found.formula:.2f} x the formula"
    lines.append(_row("as traced", f"{found.traced / 1e9:10,.1f} GFLOP{more}"))
    if found.moved is not None:
        lines.append(_row("memory moved", f"{found.moved / 1e9:10,.1f} GB"))
    return "\n".join(lines)


def collectives_table(found: Sequence[Collective], parameters: float) -> str:
    """Every kind over every axis: executions, bytes, share of the parameters' bytes; then the largest with sources."""
    if not found:
        return "collectives: none"
    rows: dict[tuple[str, str, str], list[Collective]] = {}
    for c in found:
        rows.setdefault((c.kind, c.axis or "-", c.dtype), []).append(c)
    lines = [f"{'collectives':<21}{'over':<13}{'dtype':<10}{'runs':>6}{'MiB':>12}{'MiB sent':>12}   most comes from"]
    for (kind, axis, dtype), same in sorted(rows.items(), key=lambda item: -sum(c.bytes for c in item[1])):
        runs, size, sent = (sum(getattr(c, key) for c in same) for key in ("count", "bytes", "wire"))
        source = shorter(max(same, key=lambda c: c.bytes).source)
        lines.append(f"  {kind:<19}{axis:<13}{dtype:<10}{runs:>6}{size / MIB:>12,.2f}{sent / MIB:>12,.2f}   {source}")
    size, sent = (sum(getattr(c, key) for c in found) for key in ("bytes", "wire"))
    runs = sum(c.count for c in found)
    lines.append(f"  {'all':<42}{runs:>6}{size / MIB:>12,.2f}{sent / MIB:>12,.2f}")
    lines.append(f"  all-reduced: {reduced(found) / parameters:.3f} x the parameters in the precision of mesh.reduce")
    masking = by_masking(found)
    lines.append(f"  caused by masking or restoring: {len(masking) or 'none'}")
    if not all(c.known for c in found):
        lines.append("  some loops do not say how often they run: each of those is counted once")
    return "\n".join(lines)


def times(found: Figures) -> str:
    """The roofline."""
    line, run = found.roofline, found.run
    if line is None:
        if found.collectives is None:
            return ""
        return f"roofline: no figures of a {found.topology.kind} (mae_jax/core/chips.py)"
    lines = ["roofline"]
    lines += [
        _row(name, f"{1e3 * seconds:10.2f} ms{'   <- the bound' if name == line.bound else ''}")
        for name, seconds in line.bounds.items()
    ]
    if len(line.network) > 1:
        lines += [_row(f"  over {axis}", f"{1e3 * seconds:10.2f} ms") for axis, seconds in line.network.items()]
    rate = run.config.train.batch / line.seconds
    lines.append(_row("step at least", f"{1e3 * line.seconds:10.2f} ms   {rate:,.0f} samples/s at most"))
    if found.formula is not None and found.topology.chip is not None:
        mfu = found.formula / line.seconds / found.topology.chip.peak_flops
        lines[-1] += f", MFU {mfu:.0%}"
    return "\n".join(lines)


def verdict(found: Figures) -> str:
    """Whether it fits; if not, by how much it is too large, and what to change."""
    limit = "" if found.limit is None else f" of {_bytes(found.limit).strip()}"
    if found.fits:
        if found.limit is None or found.memory is None:
            return "verdict: compiles; this device's memory is not known"
        return f"verdict: fits, with {_bytes(found.limit - found.memory.peak).strip()}{limit} to spare"
    if found.over:
        by = f"by {_bytes(found.over).strip()} per device"
    else:
        by = f"({found.refused})"
    return "\n".join([f"verdict: does NOT fit: too large {by}", *(f"  {line}" for line in advice(found))])


def advice(found: Figures) -> list[str]:
    """What to change where a step is too large, most promising first: what costs least speed. Only what builds."""
    config, run = found.run.config, found.run
    lines = []
    if config.mesh.remat in ("none", "dots"):
        after = {"mesh.remat": "dots" if config.mesh.remat == "none" else "full"}
        if _builds(found, after):
            lines.append(f"{settings(after)}: the backward pass computes more again, and less is kept")
    if found.state["parameters"] > 100 * MIB:
        lines += _split_further(found)
    rows = config.train.batch // batch_shards(run.mesh) // config.train.microbatches
    if rows > 1 and step.may_be_cut(run.method):
        more = {"train.microbatches": config.train.microbatches * divisors(rows)[1]}
        if _builds(found, more):
            lines.append(f"{settings(more)}: the batch in more parts, one after the other")
    if config.mesh.scan:
        lines.append("--config.mesh.scan=False: without the loop, the compiler keeps less (and compiles longer)")
    lines.append("a larger slice, or a smaller --config.train.batch")
    lines.append("--fit tries these and says the fastest that fits")
    return lines


def _split_further(found: Figures) -> list[str]:
    """A line that names four times the fsdp, or what is nearest to that of what builds; none where nothing does."""
    axes, config = found.run.mesh.shape, found.run.config
    fsdp, own = axes["fsdp"], found.run.mesh.size // axes["tensor"]
    free = {} if config.mesh.data == -1 else {"mesh.data": -1}
    larger = [n for n in divisors(own) if n > fsdp and _builds(found, free | {"mesh.fsdp": n})]
    if not larger:
        return []
    chosen = min(larger, key=lambda n: abs(math.log(n / (4 * fsdp))))
    kept = (found.state["parameters"] + found.state["optimizer"]) * (1 - fsdp / larger[-1])
    return [
        f"{settings(free | {'mesh.fsdp': chosen})}: parameters and optimizer are split further; over {larger[-1]} "
        f"devices it saves {_bytes(kept).strip()} of the arguments"
    ]


def _builds(found: Figures, keys: Mapping[str, Any]) -> bool:
    """Whether the config takes these keys on its devices; a guess where the config is not known."""
    if found.asked is None:
        return True
    sections = tree.unflatten({key.replace(".", "/"): value for key, value in keys.items()})
    try:
        step.make_run(found.asked.with_config(**sections), found.topology.devices)
    except UserError:
        return False
    return True


def to_json(title: str, found: Figures, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The same as numbers: bytes, FLOPs, seconds."""
    run, t, m, line = found.run, found.topology, found.memory, found.roofline
    config = run.config
    fields = ("kind", "axis", "dtype", "group", "count", "bytes", "wire", "source")
    return {
        "config": title, "topology": t.name, "devices": len(t.devices), "device": t.kind,
        "mesh": dict(run.mesh.shape), "batch": config.train.batch, "microbatches": config.train.microbatches,
        "precision": config.train.precision, "remat": config.mesh.remat, "scan": config.mesh.scan,
        "assumed": list(notes),
        "memory": None if m is None else {
            "arguments": m.arguments, "temporaries": m.temporaries, "outputs": m.outputs, "program": m.code,
            "peak": m.peak,
        },
        "limit": found.limit, "state": dict(found.state), "formula_flops": found.formula,
        "traced_flops": found.traced, "memory_moved": found.moved,
        "collectives": None if found.collectives is None else [
            {key: getattr(c, key) for key in fields} for c in found.collectives
        ],
        "roofline": None if line is None else line.bounds | {
            "by_axis": dict(line.network), "seconds": line.seconds, "bound": line.bound,
        },
        "fits": found.fits, "too_large_by": found.over, "refused": found.refused,
        "advice": [] if found.fits else advice(found),
    }  # fmt: skip


def parameter_bytes(found: Figures) -> float:
    """Bytes of all parameters in the precision in which gradients travel, on no mesh."""
    width = {"bfloat16": 2, "float32": 4}[found.run.config.mesh.reduce]
    return float(tree.size(found.run.shapes["params"]) * width)


def reduced(found: Sequence[Collective]) -> float:
    """Bytes of all all-reduces."""
    return float(sum(c.bytes for c in found if c.kind == "all-reduce"))


def shorter(source: str, most: int = 60) -> str:
    """An operation's name without what jax puts around it."""
    words = [w for w in source.split("/") if w not in ("jit(step)", "while", "body", "closed_call", "checkpoint")]
    text = "/".join(words)
    return text if len(text) <= most else "..." + text[-(most - 3) :]


def settings(values: Mapping[str, Any]) -> str:
    """Overrides as a user types them."""
    return " ".join(f"--config.{key}={value}" for key, value in values.items())


def _row(name: str, value: str) -> str:
    return f"  {name:<14}{value}"


def _bytes(size: float) -> str:
    """As "   12.34 GiB", or MiB where it is little."""
    if math.isfinite(size) and abs(size) < GIB / 10:
        return f"{size / MIB:10.2f} MiB"
    return f"{size / GIB:10.2f} GiB"
