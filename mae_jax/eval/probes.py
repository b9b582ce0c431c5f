"""The probes by name, and what is written about them: a table for people, `results.json` for machines."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from mae_jax.core.errors import UserError, nearest
from mae_jax.eval import few_shot, knn, linear, svm
from mae_jax.eval.features import Labelled


@dataclasses.dataclass(frozen=True)
class Result:
    """Outcome of one probe on one set of features.

    Attributes:
      accuracy: percent correct; mAP in percent in rows "..._map".
      interval: half width of a 95 % interval in percent, where the protocol repeats something.
      details: what else is worth a look (other k, the chosen strength).
    """

    accuracy: float
    interval: float | None = None
    details: Mapping[str, float] = dataclasses.field(default_factory=dict)


Results = Mapping[str, Mapping[str, Result]]  # set of features -> row of the table -> result

MAP = "_map"  # ends the name of a row of mean average precisions: of samples that may be of several classes
HEALTH = "health"  # needs no labels, and more than two sets of features: train/probing.py, eval/health.py


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the protocols on cached features can be told; the keys of `config.eval` of the same names.

    Attributes:
      knn_k: neighbours; the first is the protocol's number, the others are in its details (those above the number of
        training samples are left out).
      knn_temperature: of the votes' weights.
      shots: training samples of each class, for "few_shot".
      draws: of the shots.
      mesh: devices that fit and search; None: one device, and NumPy.
    """

    knn_k: tuple[int, ...] = (10, 1, 5, 20, 100)
    knn_temperature: float = 0.07
    shots: tuple[int, ...] = (1, 5, 10)
    draws: int = 20
    mesh: Mesh | None = None

    def check(self) -> None:
        """Raise UserError on numbers that no protocol can use."""
        if not self.knn_k or min(self.knn_k) < 1:
            raise UserError(f"eval.knn_k={self.knn_k}: one or more numbers of neighbours, each at least 1, expected.")
        if not self.shots or min(self.shots) < 1:
            raise UserError(f"eval.shots={self.shots}: one or more numbers per class, each at least 1, expected.")
        if self.draws < 1 or self.knn_temperature <= 0:
            raise UserError(
                f"eval.draws={self.draws} with eval.knn_temperature={self.knn_temperature}: at least 1, and a "
                f"positive number, expected."
            )


DEFAULTS = Settings()


class Protocol(NamedTuple):
    """A way to judge features.

    Attributes:
      title: of its row in the table; {knn_k} and the like are filled in.
      fit: (training features, test features, settings) -> {row: result}.
      reads: the settings that it reads.
      several: whether it knows samples of several classes.
    """

    title: str
    fit: Callable[[Labelled, Labelled, Settings], dict[str, Result]]
    reads: tuple[str, ...] = ()
    several: bool = False


def _linear(train: Labelled, test: Labelled, settings: Settings) -> dict[str, Result]:
    probe = linear.accuracy(train, test, mesh=settings.mesh)
    row = "linear" + MAP * train.multilabel
    return {row: Result(probe.accuracy, details={"C": probe.strength, "converged": float(probe.converged)})}


def _knn(train: Labelled, test: Labelled, settings: Settings) -> dict[str, Result]:
    first = settings.knn_k[0]
    ks = sorted({first, *(k for k in settings.knn_k if k <= len(train.labels))})
    found = knn.accuracies(train, test, ks, settings.knn_temperature, mesh=settings.mesh)
    return {"knn": Result(found[first], details={f"k={k}": found[k] for k in ks})}


def _shots(train: Labelled, test: Labelled, n: int, draws: int) -> Result:
    found = few_shot.accuracy(train, test, shots=n, draws=draws)
    return Result(found.accuracy, found.interval, {"deviation": found.deviation, "draws": float(draws)})


def _few_shot(train: Labelled, test: Labelled, settings: Settings) -> dict[str, Result]:
    return {f"few_shot_{n}": _shots(train, test, n, settings.draws) for n in settings.shots}


def _five_shot(train: Labelled, test: Labelled, settings: Settings) -> dict[str, Result]:
    return {"five_shot": _shots(train, test, 5, settings.draws)}


def _svm(train: Labelled, test: Labelled, settings: Settings) -> dict[str, Result]:
    """Both splits together, as the field does it for graphs: the folds are the splits."""
    found = svm.accuracy(Labelled(*map(np.concatenate, zip(train, test, strict=True))))
    return {"svm": Result(found.accuracy, found.interval)}


def _svm_linear(train: Labelled, test: Labelled, settings: Settings) -> dict[str, Result]:
    accuracy, strength = svm.linear(train, test)
    return {"svm_linear": Result(accuracy, details={"C": strength})}


PROTOCOLS: Mapping[str, Protocol] = {
    "linear": Protocol("linear probe", _linear, several=True),
    "knn": Protocol("kNN, k = {knn_k[0]}", _knn, ("knn_k", "knn_temperature")),
    "svm": Protocol("SVM, 10 folds", _svm),
    "svm_linear": Protocol("linear SVM", _svm_linear),
    "few_shot": Protocol("few-shot", _few_shot, ("shots", "draws")),
    "five_shot": Protocol("5-shot", _five_shot, ("draws",)),
}


def check_protocols(protocols: Sequence[str], known: Iterable[str] = (*PROTOCOLS, HEALTH)) -> None:
    """Raise UserError on a name that is not a protocol."""
    for name in protocols:
        if name not in known:
            raise UserError(
                f"'{name}' is not a protocol that fits cached features. {nearest(name, known)} (eval.online and "
                f"eval.protocols take these. Those that train a head or the encoder run on a finished or running "
                f"workdir: `mae_jax evaluate --help`.)"
            )


def check_several(protocols: Sequence[str], multilabel: bool) -> None:
    """Raise UserError on a protocol that expects one class per sample where there may be several."""
    known = [name for name, protocol in PROTOCOLS.items() if protocol.several]
    for name in protocols if multilabel else ():
        if name not in (*known, HEALTH):
            raise UserError(
                f"records here may be of several classes, and the protocol '{name}' expects one of each: set "
                f"eval.protocols and eval.online to some of {', '.join((*known, HEALTH))}."
            )


def probe(
    train: Labelled,
    test: Labelled,
    protocols: Sequence[str] = ("linear", "knn", "five_shot"),
    settings: Settings = DEFAULTS,
) -> dict[str, Result]:
    """Each protocol's rows: fitted to `train` alone, scored on `test`. "health" is passed over."""
    check_protocols(protocols)
    check_several(protocols, train.multilabel)
    found: dict[str, Result] = {}
    for name in protocols:
        if name != HEALTH:
            found |= PROTOCOLS[name].fit(train, test, settings)
    return found


def protocol_of(row: str) -> str:
    """The protocol that a row of the table belongs to."""
    return "few_shot" if row.startswith("few_shot_") else row.removesuffix(MAP)


def title_of(row: str, settings: Settings = DEFAULTS) -> str:
    """What the table calls a row."""
    if row.startswith("few_shot_"):
        return f"{row.removeprefix('few_shot_')}-shot"
    if row.endswith(MAP):
        return f"{title_of(row.removesuffix(MAP), settings)}, mAP"
    return PROTOCOLS[row].title.format(**vars(settings)) if row in PROTOCOLS else row
