"""What a run says of itself before it starts."""

from pathlib import Path

import jax

from mae_jax.core.chips import peak_flops
from mae_jax.core.mesh import batch_shards
from mae_jax.schema import Optim
from mae_jax.train.build import Run, part_sizes
from mae_jax.train.check_chip import kernels
from mae_jax.train.schedules import scaled


def summary(run: Run, workdir: Path, data: str, start: int) -> str:
    """The start-up text: method, size, devices, batch, cost, data, and where things are written."""
    config, method = run.config, run.method
    train, optim = config.train, config.optim
    parts = part_sizes(run.shapes["params"])
    lines = [
        ("method", method.name),
        ("model", _model(method)),
        ("parameters", f"{_count(sum(parts.values()))}: " + ", ".join(f"{n} {_count(p)}" for n, p in parts.items())),
        ("data", data),
        ("devices", f"{run.mesh.size} x {run.mesh.devices.flat[0].device_kind}, {jax.process_count()} process(es)"),
        ("mesh", ", ".join(f"{axis} {n}" for axis, n in run.mesh.shape.items())),
        ("batch", _batch(run)),
        ("steps", f"{train.steps}, {optim.warmup} of them warm-up" + (f"; resuming after {start}" if start else "")),
        ("learning rate", _rate(optim, train.batch)),
        ("optimizer", f"{optim.name}, weight decay {optim.weight_decay:g}"
         + (", " if optim.weight_decay_end is None else f" to {optim.weight_decay_end:g} along a cosine, ")
         + (f"gradient clipped to {optim.clip:g}" if optim.clip else "no clipping")),
        ("precision", f"{train.precision} compute, float32 weights"),
        *kernels(config, run.mesh.devices.flat[0]).items(),
    ]  # fmt: skip
    cost = method.cost()
    if cost is not None:
        tokens = f"{train.batch} samples, {train.batch * cost.tokens:,} tokens ({train.batch * cost.visible:,} visible)"
        lines.append(("each step", tokens))
        peak = peak_flops(run.mesh.devices.flat[0].device_kind)
        known = f", {peak / 1e12:g} peak TFLOP/s per device" if peak else ""
        lines.append(("cost", f"{cost.step / 1e9:.3g} GFLOP per sample and step (closed formula){known}"))
    lines.append(("written to", f"{workdir}/  metrics.jsonl, checkpoints/, pictures/, config.json"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:>{width}}  {text}" for name, text in lines)


def _batch(run: Run) -> str:
    """How the batch is shared out."""
    train, shards = run.config.train, batch_shards(run.mesh)
    if not all(leaf.batched for leaf in run.method.batch_spec.values()):
        return f"{train.batch} sample, whole on every device"
    each = train.batch / train.microbatches / shards
    what = "device(s)" if shards == run.mesh.size else f"groups of {run.mesh.size // shards} devices"
    return f"{train.batch} global = {train.microbatches} microbatch(es) x {shards} {what} x {each:g}"


def _rate(optim: Optim, batch: int) -> str:
    """The peak rate, where it comes from, and what follows."""
    how = {"linear": f" x {batch} / 256", "sqrt": f" x sqrt({batch}) / 4", "none": ""}[optim.scaling]
    peak = scaled(optim.learning_rate, batch, optim.scaling)
    end = max(optim.end_rate, optim.end_share * peak)
    then = "constant from there" if optim.schedule == "constant" else f"then a cosine to {end:g}"
    return f"{peak:.4g} at the peak = {optim.learning_rate:g}{how}, {then}"


def _model(method) -> str:
    """The method's own fields, but those that every method has."""
    shown = {k: v for k, v in vars(method).items() if k not in ("compute", "inner")}
    own = ", ".join(f"{k} {_value(v)}" for k, v in shown.items())
    return f"{own}; {method.inner.name}: {_model(method.inner)}" if hasattr(method, "inner") else own


def _value(v) -> str:
    return "x".join(map(str, v)) if isinstance(v, tuple) else f"{v:g}" if isinstance(v, float) else str(v)


def _count(n: int) -> str:
    return f"{n / 1e6:.2f} M" if n >= 1e6 else f"{n / 1e3:.1f} k"
