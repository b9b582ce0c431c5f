"""Name maps: how the tensors of a published checkpoint become our parameters, and back.

A map is an ordered list of rules; the first rule that matches a name has it. Names on both sides are
templates in which `{i}` stands for one part of a name (no dot, no slash) and `{i:REGEX}` for what the regular
expression matches:

    Rule("blocks.{i}.attn.qkv.weight", "encoder/blocks/{i}/attn/qkv/kernel", transpose)
    Rule(("q.bias", "v.bias"), "attn/qkv/bias", ...)       several of theirs fill one of ours
    Constant("pos_embed", table, "recomputed")             not a parameter of ours, but must hold this value
    Unused("head.{rest:.*}", "a classifier's head")        not a parameter of ours

Import is strict on both sides, and every transform is invertible, so one list serves both directions.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mae_jax.core import tree
from mae_jax.core.errors import UserError

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Transform:
    """Two inverse functions: `to_ours` takes their tensors (one per name), `to_theirs` gives them back."""

    to_ours: Callable[..., np.ndarray]
    to_theirs: Callable[[np.ndarray], Any]


identity = Transform(lambda x: x, lambda x: x)
transpose = Transform(lambda x: x.T, lambda x: x.T)  # torch's Linear is (out, in), ours (in, out)


def patch_kernel(channels: int, patch: tuple[int, ...]) -> Transform:
    """A convolution's (out, channels, *patch) <-> (prod(patch) * channels, out), channels fastest."""
    axes = tuple(range(2, 2 + len(patch)))

    def to_ours(x: np.ndarray) -> np.ndarray:
        return x.transpose(*axes, 1, 0).reshape(-1, x.shape[0])

    def to_theirs(x: np.ndarray) -> np.ndarray:
        last = len(patch)
        return x.reshape(*patch, channels, x.shape[-1]).transpose(last + 1, last, *range(last))

    return Transform(to_ours, to_theirs)


def reshape(theirs: Sequence[int], ours: Sequence[int]) -> Transform:
    """The same numbers in the same order under another shape."""
    return Transform(lambda x: x.reshape(tuple(ours)), lambda x: x.reshape(tuple(theirs)))


def stacked(count: int, each: Transform = identity) -> Transform:
    """`count` tensors (say q, k, v), each through `each`, side by side along our last axis."""
    return Transform(
        lambda *xs: np.concatenate([each.to_ours(x) for x in xs], axis=-1),
        lambda x: tuple(each.to_theirs(part) for part in np.split(x, count, axis=-1)),
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """Their name (or names, joined by the transform) <-> one parameter path of ours."""

    theirs: str | tuple[str, ...]
    ours: str
    transform: Transform = identity

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


@dataclasses.dataclass(frozen=True)
class Constant:
    """A tensor that ours recomputes, so that it is no parameter; the checkpoint must still hold `value`."""

    theirs: str
    value: np.ndarray
    reason: str
    tolerance: float = 1e-5


@dataclasses.dataclass(frozen=True)
class Unused:
    """Tensors that ours has no place for, and why that is right."""

    theirs: str
    reason: str


Rules = Sequence[Rule | Constant | Unused]


@dataclasses.dataclass(frozen=True)
class Report:
    """What an import did: {their name: our path} and {their unused name: the reason}."""

    used: dict[str, str]
    unused: dict[str, str]


def import_weights(rules: Rules, tensors: Tensors, template: Mapping[str, Any]) -> tuple[dict[str, Any], Report]:
    """Return (our tree of numpy arrays, Report).

    Args:
      rules: the name map; first match wins.
      tensors: {their name: array}.
      template: our nested dict of arrays or shapes (`jax.eval_shape` of init); gives paths, shapes and
        dtypes.
    Raises:
      UserError: a tensor no rule knows; a parameter nobody fills, or two fill; a wrong shape; a constant of
        another value. The message names each of them.
    """
    wanted = tree.flatten(template)
    slots: dict[str, tuple[Rule, dict[int, str]]] = {}
    unused: dict[str, str] = {}
    problems: list[str] = []
    for name, tensor in tensors.items():
        rule, index, captured = _find(rules, name)
        if rule is None:
            problems.append(f"tensor {name} {_shape(tensor)} is known to no rule")
        elif isinstance(rule, Rule):
            path = _fill(rule.ours, captured)
            owner, sources = slots.setdefault(path, (rule, {}))
            if owner is not rule or index in sources:
                problems.append(f"{name} and {next(iter(sources.values()))} both fill {path}")
            else:
                sources[index] = name
        else:
            unused[name] = rule.reason
            problems += _constant_problem(rule, name, tensor) if isinstance(rule, Constant) else []
    flat: dict[str, np.ndarray] = {}
    for path, (rule, sources) in slots.items():
        value, problem = _convert(rule, path, sources, tensors, wanted)
        if problem:
            problems.append(problem)
        else:
            flat[path] = value
    problems += [
        f"parameter {path} {_shape(leaf)} is filled by no tensor" for path, leaf in wanted.items() if path not in slots
    ]
    if problems:
        raise UserError(
            f"The weights do not fit the network ({len(problems)} mismatch{'es' * (len(problems) > 1)}): "
            f"{'; '.join(problems)}. Are the network's sizes and options those of the weights?"
        )
    used = {name: path for path, (_, sources) in slots.items() for name in sources.values()}
    return tree.unflatten({path: flat[path] for path in wanted}), Report(used, unused)


def export_weights(rules: Rules, params: Mapping[str, Any], *, constants: bool = False) -> dict[str, np.ndarray]:
    """Return {their name: array}: the exact inverse of `import_weights`, also of gradients and the like.

    `constants=True` adds the tensors that ours recomputes, as a checkpoint of theirs needs them.
    Raises UserError naming every parameter that no rule knows.
    """
    tensors: dict[str, np.ndarray] = {}
    unknown = []
    for path, leaf in tree.flatten(params).items():
        rule, names = _theirs(rules, path)
        if rule is None:
            unknown.append(path)
            continue
        theirs = rule.transform.to_theirs(np.asarray(leaf))
        arrays = (theirs,) if isinstance(rule.theirs, str) else theirs
        for name, array in zip(names, arrays, strict=True):
            tensors[name] = np.ascontiguousarray(array).reshape(array.shape)
    if unknown:
        raise UserError(f"The name map has no rule for {len(unknown)} of our parameters: {', '.join(unknown)}.")
    if constants:
        tensors |= {rule.theirs: rule.value for rule in rules if isinstance(rule, Constant)}
    return tensors


def their_names(rules: Rules, path: str) -> tuple[str, ...]:
    """Return their name or names for our parameter `path`; empty where no rule knows it."""
    return _theirs(rules, path)[1]


def _convert(
    rule: Rule, path: str, sources: dict[int, str], tensors: Tensors, wanted: Mapping[str, Any]
) -> tuple[np.ndarray, str]:
    """One parameter of ours from its tensors -> (array, problem or "")."""
    empty = np.zeros(0)
    names = ", ".join(sources.values())
    if path not in wanted:
        return empty, f"{names} would fill {path}, which the network does not have"
    if len(sources) < len(rule.sources):
        missing = [rule.sources[i] for i in range(len(rule.sources)) if i not in sources]
        return empty, f"parameter {path} has {names} but lacks {', '.join(missing)}"
    theirs = [np.asarray(tensors[sources[i]]) for i in range(len(rule.sources))]
    shape = tuple(wanted[path].shape)
    wrong = f"{names} {', '.join(_shape(x) for x in theirs)} does not fit parameter {path} of shape {shape}"
    try:
        value = rule.transform.to_ours(*theirs)
    except ValueError:
        return empty, wrong
    if value.shape != shape:
        return empty, wrong
    return np.ascontiguousarray(value, dtype=wanted[path].dtype).reshape(shape), ""


def _constant_problem(rule: Constant, name: str, tensor: np.ndarray) -> list[str]:
    if tensor.shape != rule.value.shape:
        return [f"{name} {_shape(tensor)} should be the fixed table of shape {rule.value.shape}"]
    distance = float(np.max(np.abs(tensor - rule.value), initial=0.0))
    if not distance <= rule.tolerance:
        return [f"{name} differs by up to {distance:.2g} from the fixed table that ours recomputes"]
    return []


def _find(rules: Rules, name: str) -> tuple[Rule | Constant | Unused | None, int, dict[str, str]]:
    """The first rule that knows their `name`, which of its sources it is, and what its parts matched."""
    for rule in rules:
        for index, template in enumerate(rule.sources if isinstance(rule, Rule) else (rule.theirs,)):
            match = _pattern(template).fullmatch(name)
            if match:
                return rule, index, match.groupdict()
    return None, 0, {}


def _theirs(rules: Rules, path: str) -> tuple[Rule | None, tuple[str, ...]]:
    """The first rule that fills our `path`, and their names for it."""
    for rule in rules:
        if isinstance(rule, Rule):
            regexes = dict(part for template in rule.sources for part in _parts(template))
            match = _pattern(rule.ours, regexes).fullmatch(path)
            if match:
                return rule, tuple(_fill(name, match.groupdict()) for name in rule.sources)
    return None, ()


_PART = re.compile(r"\{(\w+)(?::([^{}]*))?\}")


def _parts(template: str) -> list[tuple[str, str]]:
    """[(name, regex)] of a template's parts."""
    return [(name, regex or r"[^./]+") for name, regex in _PART.findall(template)]


def _pattern(template: str, regexes: Mapping[str, str] | None = None) -> re.Pattern[str]:
    """Compile a template; `regexes` overrides what its parts may match (our side follows their side)."""
    regexes = dict(_parts(template)) | dict(regexes or {})
    literals = _PART.split(template)[::3]
    names = [name for name, _ in _parts(template)]
    pieces = [re.escape(literals[0])]
    for name, literal in zip(names, literals[1:]):
        again = f"(?P<{name}>" in "".join(pieces)
        pieces += [f"(?P={name})" if again else f"(?P<{name}>{regexes[name]})", re.escape(literal)]
    return re.compile("".join(pieces))


def _fill(template: str, captured: Mapping[str, str]) -> str:
    return _PART.sub(lambda part: captured[part[1]], template)


def _shape(x: Any) -> str:
    return f"({'x'.join(map(str, x.shape)) or 'scalar'})"
