"""Probes of the encoder while it trains and at the end: which weights, on which data, compared with what."""

import dataclasses
import functools
import hashlib
import inspect
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import mae_jax
from mae_jax.core.errors import UserError
from mae_jax.core.hashing import tree_hash
from mae_jax.core.mesh import share, use_mesh
from mae_jax.data.decode import BadImage
from mae_jax.data.pipeline import fingerprint
from mae_jax.data.sources import Source
from mae_jax.eval import cache
from mae_jax.eval.features import Labelled, extract
from mae_jax.eval.health import health
from mae_jax.eval.probes import HEALTH, PROTOCOLS, Result, Settings, check_several
from mae_jax.eval.report import tables
from mae_jax.eval.run import Evaluator
from mae_jax.methods.base import Method
from mae_jax.train.build import Run, sample_batch
from mae_jax.train.feed import eval_batches, eval_pass
from mae_jax.train.health import Health
from mae_jax.train.state import State, rest_of

HEALTH_KEYS = ("lidar_samples", "lidar_views")
SAMPLED = 8  # records whose content is part of what identifies a source


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an evaluation found, by set of features: rows of the table, and measures that need no labels."""

    results: dict[str, dict[str, Result]]
    health: dict[str, dict[str, float]]


class Probes:
    """Probes of one run's encoder on its own data, compiled once.

    Attributes:
      protocols: of the table at the end.

    Args:
      folder: where the features of `final` are cached; None: nowhere.
    """

    def __init__(self, run: Run, train: Source, test: Source, folder: Path | None = None):
        self._run, self._train, self._test, self._folder = run, train, test, folder
        self.protocols = run.config.eval.protocols
        self._evaluators: dict[Any, Evaluator] = {}

    @staticmethod
    def check(run: Run, train: Source, test: Source) -> None:
        """Raise UserError where probes are asked for that the data or the encoder cannot give."""
        settings = run.config.eval
        online = settings.online if settings.every else ()
        protocols = (*online, *settings.protocols)
        if set(protocols) - {HEALTH}:
            for split, source in (("train", train), ("test", test)):
                check_labels(run, split, source)
            check_several(protocols, train.multilabel)
        if HEALTH in protocols:
            Health.check(run)
        raw = settings.raw and bool(settings.protocols)  # the table alone compares with pixels
        evaluator = Probes(run, train, test)._evaluator(protocols, raw)
        rest = rest_of(run.shapes, run.frozen_shapes)
        evaluator.check(run.shapes["params"], rest, jax.eval_shape(lambda: sample_batch(run.method)))

    def online(self, state: State) -> dict[str, float]:
        """{"probe/<row>": accuracy, "health/<measure>": value} of the weights as they are."""
        found = self._evaluate(self.weights(state), self._run.config.eval.online, raw=False, folder=None)
        tail = lambda name: "" if name == "pretrained" else f"_{name}"
        probes = {
            f"probe/{row}{tail(name)}": result.accuracy
            for name, results in found.results.items()
            for row, result in results.items()
        }
        return probes | {
            f"health/{measure}{tail(name)}": value
            for name, measures in found.health.items()
            for measure, value in measures.items()
            if measure.count("/") < 2  # layers, but not every head
        }

    def final(self, state: State) -> Outcome:
        """Of the pretrained encoder (and its average), of a random one and of raw pixels."""
        settings = self._run.config.eval
        weights = self.weights(state)
        if settings.random:
            fresh = self._run.init(("params", "stats", "ema"))
            weights["random"] = self.weights(fresh)["pretrained"]
        return self._evaluate(weights, self.protocols, raw=settings.raw, folder=self._folder)

    def table(self, found: Outcome, titles: Mapping[str, str] | None = None) -> str:
        """What `final` found, for people; `titles` are those of other protocols' rows."""
        return tables(found.results, found.health, settings_of(self._run), titles)

    def configs(self) -> dict[str, dict[str, Any]]:
        """{protocol: the settings that it read} of the table at the end."""
        settings = vars(settings_of(self._run))
        eval_ = dataclasses.asdict(self._run.config.eval)
        found = {}
        for name in self.protocols:
            read = HEALTH_KEYS if name == HEALTH else PROTOCOLS[name].reads
            found[name] = {"pool": eval_["pool"]} | {key: settings.get(key, eval_.get(key)) for key in read}
        return found

    def facts(self) -> dict[str, Any]:
        """What a record of an evaluation says of the data and of the program."""
        limit = self._run.config.eval.limit
        splits = {"train": self._train, "test": self._test}
        return {
            "data": {
                name: {"what": source.describe(), "samples": min(len(source), limit or len(source)),
                       "classes": len(source.classes)}
                for name, source in splits.items()
            },
            "mae_jax": mae_jax.__version__,
        }  # fmt: skip

    def weights(self, state: State) -> dict[str, tuple[Any, Any]]:
        """{name: (params, rest)} of the sets that a state holds."""
        rest = rest_of(state, self._run.frozen)
        found = {"pretrained": (state["params"], rest)}
        if "average" in state["ema"]:
            found["average"] = (state["ema"]["average"], rest)
        return found

    def _evaluate(
        self, weights: dict[str, tuple[Any, Any]], protocols: tuple[str, ...], *, raw: bool, folder: Path | None
    ) -> Outcome:
        with use_mesh(self._run.mesh):
            evaluator = self._evaluator(protocols, raw)
            train = self._features(evaluator, weights, "train", folder)
            results: dict[str, dict[str, Result]] = {}
            if set(protocols) - {HEALTH}:
                test = self._features(evaluator, weights, "test", folder)
                results = {name: evaluator.probe(train[name], test[name]) for name in train}
            measures: dict[str, dict[str, float]] = {}
            if HEALTH in protocols:
                measures = {name: health(found.features) for name, found in train.items()}
                for name, (params, rest) in weights.items():
                    measures[name] |= self._health(params, rest)
        return Outcome(results, measures)

    def _features(
        self, evaluator: Evaluator, weights: dict[str, tuple[Any, Any]], split: str, folder: Path | None
    ) -> dict[str, Labelled]:
        source = {"train": self._train, "test": self._test}[split]
        encoders = evaluator.encoders(weights)
        if folder is None:
            return extract(
                encoders, eval_batches(self._run, source), place=self._run.place, multilabel=source.multilabel
            )
        data = features_key(self._run, source)
        entries = {
            name: cache.Entry.of(
                folder, {"features": self._weights_key(weights.get(name)), "pool": self._run.config.eval.pool} | data
            )
            for name in encoders
        }
        batches, batch = eval_pass(self._run, source)
        return cache.features(
            entries, encoders,
            cache.Pass(functools.partial(eval_batches, self._run, source), batches, batch, share(self._run.mesh)),
            place=self._run.place, multilabel=source.multilabel,
        )  # fmt: skip

    def _weights_key(self, weights: tuple[Any, Any] | None) -> dict[str, Any]:
        """What identifies an encoder; None is the raw input."""
        if weights is None:
            return {"weights": "none: the raw input"}
        run = self._run
        return {
            "weights": weights_digest(*weights), "method": dict(run.config.method),
            "precision": run.config.train.precision, "frozen": run.frozen_hashes, "code": self._code,
        }  # fmt: skip

    @functools.cached_property
    def _code(self) -> str:
        return code_digest(self._run.method)

    @functools.cached_property
    def _health(self) -> Health:
        return Health(self._run, self._train)

    def _evaluator(self, protocols: tuple[str, ...], raw: bool) -> Evaluator:
        run = self._run
        if (protocols, raw) not in self._evaluators:
            self._evaluators[protocols, raw] = Evaluator(
                run.method, run.augment, how=run.config.eval.pool, protocols=protocols, raw=raw,
                place=run.place, settings=settings_of(run),
            )  # fmt: skip
        return self._evaluators[protocols, raw]


def settings_of(run: Run) -> Settings:
    """The protocols' settings as the config has them, on the run's devices."""
    keys = [field.name for field in dataclasses.fields(Settings) if field.name != "mesh"]
    return Settings(**{key: getattr(run.config.eval, key) for key in keys}, mesh=run.mesh)


def weights_digest(params: Any, rest: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the content of what an encoder reads (frozen networks have their file's hash)."""
    found = tree_hash({"params": params, "stats": rest["stats"], "ema": rest["ema"]})
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def code_digest(method: Method) -> str:
    """16 hexadecimal digits of the code that encodes: this package's, and what defines the method elsewhere."""
    inner = [value for value in vars(method).values() if isinstance(value, Method)]  # of one that is being fine-tuned
    parts = [part for each in (method, *inner) for base in type(each).__mro__ for part in vars(base).values()]
    functions = [part for part in map(inspect.unwrap, filter(callable, parts)) if inspect.isfunction(part)]
    files = {Path(function.__code__.co_filename) for function in functions}
    digest = hashlib.sha256()
    for file in sorted(files | set(Path(mae_jax.__file__).parent.rglob("*.py"))):
        digest.update(file.read_bytes() if file.suffix == ".py" and file.is_file() else b"")
    return digest.hexdigest()[:16]


def features_key(run: Run, source: Source) -> dict[str, Any]:
    """What features depend on besides the weights: the data, and what is done to them before the encoder."""
    augment, settings = run.config.augment, run.config.eval
    return {
        "data": {"source": run.config.data.source, "what": source.describe(), "content": content(source)}
        | fingerprint(source),
        "limit": settings.limit,
        "preprocessing": {
            "host": repr(run.views(False)), "mean": augment.mean, "std": augment.std, "normalise": augment.normalise,
            "modalities": dict(augment.options),
        },
        "devices": jax.default_backend(), "mae_jax": mae_jax.__version__,
    }  # fmt: skip


def content(source: Source) -> int:
    """A checksum of some records, so that other images under the same names are noticed."""
    found = 0
    for i in np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(int)):
        try:
            record = source[int(i)]
        except (OSError, BadImage):
            continue
        for name in sorted(record):
            value = record[name]
            data = value.signature() if hasattr(value, "signature") else value  # a file that is read when asked
            data = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
            found = zlib.crc32(data, zlib.crc32(name.encode(), found))
    return found


def check_labels(run: Run, split: str, source: Source) -> None:
    """Raise UserError where a split has no labels."""
    if not source.classes:
        protocols: Sequence[str] = run.config.eval.protocols
        raise UserError(
            f"these probes need labels (eval.every={run.config.eval.every}, eval.protocols={protocols}), but the "
            f"{split} split has no labels: {source.describe()}. Give labels (for a folder: one sub-folder per class), "
            f"or probe by 'health' alone, which needs none; in training --config.eval.every=0 and "
            f"--config.eval.protocols='()' switch probes off."
        )
