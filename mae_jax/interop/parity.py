"""Parity: ours, built and filled from a golden file, against everything the file recorded of the authors'
code.

Each published system has one module here, named as the files' `meta.system`, with
`CASES = {meta.class: prepare}`, where `prepare(golden) -> Prepared` says how ours is built, named and run.
"""

import dataclasses
import importlib
import json
import math
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax import interop
from mae_jax.core.errors import UserError
from mae_jax.interop.golden import Golden, read
from mae_jax.interop.names import Rules, export_weights, import_weights

TOLERANCE = 1e-4
FLOOR = 1e-6  # of a reference array's size, below which errors are not scaled up further


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Ours, ready to run on one golden file.

    Attributes:
      run: params -> {output name: array}, every output of the file, in the authors' layout.
      rules, template: the name map and the shapes of our parameters; empty for code without weights.
      references: further reference arrays that the file holds in its meta (an lr-scale map, say).
      notes: {output: what a reader of its comparison must know}.
      tolerances: {output: a larger tolerance than the caller's}, each with its reason in `notes`.
    """

    run: Callable[[dict[str, Any]], Mapping[str, Any]]
    rules: Rules = ()
    template: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    references: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerances: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Line:
    """The comparison of one output. `max_rel` is max_abs over the reference's largest entry (at least
    FLOOR).
    """

    file: str
    output: str
    max_abs: float
    max_rel: float
    ok: bool
    note: str = ""

    def as_json(self) -> str:
        """One JSON object; a number that JSON lacks (nan, inf) is null."""
        fields = dataclasses.asdict(self) | {
            "max_abs": _finite(self.max_abs),
            "max_rel": _finite(self.max_rel),
        }
        return json.dumps(fields if self.note else {k: v for k, v in fields.items() if k != "note"})

    def as_text(self, width: int = 0) -> str:
        verdict = "ok" if self.ok else "FAIL"
        numbers = f"{self.max_abs:9.2e} {self.max_rel:9.2e}" if not math.isnan(self.max_abs) else f"{'-':>9} {'-':>9}"
        return f"  {self.output:<{width}} {numbers}  {verdict}{'  ' + self.note if self.note else ''}"


def gradient_norms(rules: Rules, gradient: Mapping[str, Any], prefix: str = "grad_norm") -> dict[str, Any]:
    """{prefix/their name: Frobenius norm} of every parameter that the rules name."""
    exported = export_weights(rules, gradient)
    return {f"{prefix}/{name}": np.linalg.norm(g.astype(np.float64).ravel()) for name, g in exported.items()}


def channels_first(images: jax.Array) -> jax.Array:
    """[b, *size, c] as the authors lay it out."""
    return jnp.moveaxis(images, -1, 1)


def systems() -> list[str]:
    """The systems whose golden files can be compared: one module of this package each."""
    machinery = {"blocks", "files", "golden", "names", "options", "parity", "video_layouts", "vit_layouts"}
    return sorted(m.name for m in pkgutil.iter_modules(interop.__path__) if m.name not in machinery)


def case(system: str, name: str) -> Callable[[Golden], Prepared]:
    """Return the code that prepares ours for a file of `system` and class `name`, or raise UserError."""
    if system not in systems():
        raise UserError(f"Its system '{system}' has no counterpart here; known are: {', '.join(systems())}.")
    cases = importlib.import_module(f"{interop.__name__}.{system}").CASES
    if name not in cases:
        raise UserError(f"Its class '{name}' of {system} has no counterpart here; known are: {', '.join(cases)}.")
    return cases[name]


def compare(golden: Golden, file: str = "", tolerance: float = TOLERANCE) -> list[Line]:
    """Build ours for `golden`, run it in full float32 precision and compare every output; a Line each, in the
    file's order.

    Raises UserError where ours cannot be built from the file (unknown class or option, misfitting weights).
    """
    prepare = case(golden.system, golden.name)
    with jax.default_matmul_precision("highest"):
        prepared = prepare(golden)
        params, _ = import_weights(prepared.rules, golden.weights, prepared.template)
        ours = prepared.run(params)
    references = {**golden.outputs, **prepared.references}
    lines = [
        _line(file, name, reference, ours.get(name), max(tolerance, prepared.tolerances.get(name, 0.0)))
        for name, reference in references.items()
    ]
    return [dataclasses.replace(line, note=line.note or prepared.notes.get(line.output, "")) for line in lines]


def run(files: Iterable[str | Path], *, as_json: bool = False, tolerance: float = TOLERANCE) -> int:
    """Compare each file, print a line per output, and return the exit code: 0 where all is equal within
    tolerance.

    A file that cannot be compared counts as failed: a line without an output, the reason on stderr.
    """
    good, bad = 0, 0
    for file in map(str, files):
        lines = _compare_file(file, tolerance)
        if as_json or lines[0].output:  # a person has read the reason on stderr already
            for text in _render(file, lines, as_json):
                print(text, flush=True)
        good += sum(line.ok for line in lines)
        bad += sum(not line.ok for line in lines)
    if not as_json:
        print(f"{good} of {good + bad} comparisons within {tolerance:g}" + (f"; {bad} FAILED" if bad else ""))
    return 1 if bad or not good else 0


def _compare_file(file: str, tolerance: float) -> list[Line]:
    """The lines of one file; one failed line without an output where it cannot be compared."""
    try:
        return compare(read(file), file, tolerance)
    except UserError as error:
        reason = str(error)
    except Exception as error:  # one file on which ours breaks must not hide the others' results
        traceback.print_exc()
        reason = f"Ours broke on this file ({type(error).__name__}: {error})."
    print(f"{file}: {reason}", file=sys.stderr)
    return [Line(file, "", math.nan, math.nan, False, reason)]


def _line(file: str, name: str, reference: Any, ours: Any, tolerance: float) -> Line:
    """Compare one array."""
    if ours is None:
        return Line(file, name, math.nan, math.nan, False, "not computed by ours")
    reference, ours = np.asarray(reference), np.asarray(ours)
    if ours.shape != reference.shape:
        return Line(file, name, math.nan, math.nan, False, f"ours has shape {ours.shape}, theirs {reference.shape}")
    reference, ours = reference.astype(np.float64), ours.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where(ours == reference, 0.0, np.abs(ours - reference))  # equal infinities are equal
    max_abs = float(np.max(difference, initial=0.0))
    size = float(np.max(np.abs(reference), initial=0.0))
    max_rel = max_abs / max(size, FLOOR)
    ok = max_abs <= tolerance or max_rel <= tolerance  # both false for nan
    return Line(file, name, max_abs, max_rel, ok, "not a number" if math.isnan(max_abs) else "")


def _render(file: str, lines: Sequence[Line], as_json: bool) -> Iterator[str]:
    if as_json:
        yield from (line.as_json() for line in lines)
        return
    width = max(len("output"), *(len(line.output) for line in lines))
    yield file
    yield f"  {'output':<{width}} {'max abs':>9} {'max rel':>9}"
    yield from (line.as_text(width) for line in lines)


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
