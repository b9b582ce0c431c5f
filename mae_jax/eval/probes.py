"""The probes by name, and what is written about them: a table for people, `results.json` for machines."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.eval import few_shot, knn, linear, svm
from mae_jax.eval.features import Labelled


@dataclasses.dataclass(frozen=True)
class Result:
    """Outcome of one probe on one set of features.

    Attributes:
      accuracy: percent.
      interval: half width of a 95 % interval in percent, where the protocol repeats something.
      details: what else is worth a look (other k, the chosen strength).
    """

    accuracy: float
    interval: float | None = None
    details: Mapping[str, float] = dataclasses.field(default_factory=dict)


Results = Mapping[str, Mapping[str, Result]]  # set of features -> protocol -> result


def _linear(train: Labelled, test: Labelled) -> Result:
    probe = linear.accuracy(train, test)
    return Result(probe.accuracy, details={"C": probe.strength, "converged": float(probe.converged)})


def _knn(train: Labelled, test: Labelled, k: int) -> Result:
    ks = sorted({k, *(other for other in (1, 5, 20, 100) if other <= len(train.labels))})
    found = knn.accuracies(train, test, ks)
    return Result(found[k], details={f"k={other}": found[other] for other in ks})


def _few_shot(train: Labelled, test: Labelled, shots: int) -> Result:
    found = few_shot.accuracy(train, test, shots=shots)
    return Result(found.accuracy, found.interval)


def _svm(train: Labelled, test: Labelled) -> Result:
    """Both splits together, as the field does it for graphs: the folds are the splits."""
    found = svm.accuracy(Labelled(*map(np.concatenate, zip(train, test, strict=True))))
    return Result(found.accuracy, found.interval)


PROTOCOLS: Mapping[str, tuple[str, Callable[[Labelled, Labelled], Result]]] = {
    "linear": ("linear probe", _linear),
    "knn": ("kNN, k = 10", functools.partial(_knn, k=10)),
    "svm": ("SVM, 10 folds", _svm),
    "five_shot": ("5-shot", functools.partial(_few_shot, shots=5)),
}


def check_protocols(protocols: Sequence[str]) -> None:
    """Raise UserError on a name that is not a protocol."""
    for name in protocols:
        if name not in PROTOCOLS:
            raise UserError(f"eval.protocols holds '{name}', which is not a protocol. {nearest(name, PROTOCOLS)}")


def probe(
    train: Labelled, test: Labelled, protocols: Sequence[str] = ("linear", "knn", "five_shot")
) -> dict[str, Result]:
    """Each protocol's result: fitted to `train` alone, scored on `test`."""
    check_protocols(protocols)
    return {name: PROTOCOLS[name][1](train, test) for name in protocols}


def table(results: Results) -> str:
    """Protocols down, sets of features across; percent with a 95 % interval where there is one."""
    rows = [["accuracy (%)", *results]]
    for protocol in _protocols(results):
        rows.append([PROTOCOLS[protocol][0], *(_cell(found.get(protocol)) for found in results.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for title, *cells in rows:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([title.ljust(widths[0]), *right]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def results_json(results: Results) -> dict[str, dict[str, float]]:
    """{protocol: {set of features: percent, rounded to 2 decimals}}."""
    return {
        protocol: {name: round(found[protocol].accuracy, 2) for name, found in results.items() if protocol in found}
        for protocol in _protocols(results)
    }


def _protocols(results: Results) -> list[str]:
    return [name for name in PROTOCOLS if any(name in found for found in results.values())]


def _cell(result: Result | None) -> str:
    if result is None:
        return "-"
    accuracy = f"{result.accuracy:.1f}"
    return accuracy if result.interval is None else f"{accuracy} (+-{result.interval:.1f})"
