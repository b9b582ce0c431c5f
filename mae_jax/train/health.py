"""Signs of health that need more than pooled features: augmented views (LiDAR) and attention maps."""

import dataclasses
import functools
import sys
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.mesh import use_mesh
from mae_jax.core.types import Batch, Params
from mae_jax.data.sources import Source
from mae_jax.eval.attention import reach, summary
from mae_jax.eval.features import fetch, pool
from mae_jax.eval.health import lidar
from mae_jax.methods.base import Rest
from mae_jax.train import inputs
from mae_jax.train.build import Run
from mae_jax.train.feed import few_batches, view_batches


class Health:
    """Label-free measures of a run's encoder on one source, compiled once."""

    def __init__(self, run: Run, source: Source):
        self._run, self._source = run, source
        self._reach = reach(run.method, run.augment)
        self._said = False

    @staticmethod
    def check(run: Run) -> None:
        """Raise UserError on settings that no measure can use."""
        settings = run.config.eval
        if settings.lidar_samples < 2 or settings.lidar_views < 2:
            raise UserError(
                f"eval.lidar_samples={settings.lidar_samples} with eval.lidar_views={settings.lidar_views}: LiDAR "
                f"compares at least 2 views of each of at least 2 samples."
            )

    def __call__(self, params: Params, rest: Rest) -> dict[str, float]:
        """{measure: value}: "lidar", "attention_distance" and its layers and heads, as far as the encoder has them."""
        with use_mesh(self._run.mesh):
            return self._lidar(params, rest) | self._attention(params, rest)

    def _lidar(self, params: Params, rest: Rest) -> dict[str, float]:
        run, settings = self._run, self._run.config.eval
        if settings.pool == "tokens" or not all(leaf.batched for leaf in run.method.batch_spec.values()):
            return {}  # nodes of one large graph have no views of their own
        n = min(settings.lidar_samples, len(self._source), settings.limit or len(self._source))
        q = settings.lidar_views
        if n < 2:
            return {}
        batches, count = view_batches(run, self._source, n, q)
        found = []
        try:
            for number in range(count):
                batch = {name: run.place(name, rows) for name, rows in next(batches).items() if name in run.leaves}
                found.append(fetch(self._encode(params, rest, batch, np.int32(number))))
        finally:
            batches.close()
        views = np.concatenate(found)[: n * q]
        views = views.reshape(n, q, views.shape[-1])
        if not np.ptp(views, axis=1).any():
            if not self._said and jax.process_index() == 0:
                print(
                    "mae_jax: LiDAR is left out of health: this config augments nothing, so all views of a sample are "
                    "alike. Set augment.crop_scale, say.",
                    file=sys.stderr,
                )
            self._said = True
            return {}
        return {"lidar": lidar(views)}

    @functools.cached_property
    def _encode(self):
        run = self._run
        augment = dataclasses.replace(run.config.augment, mixup=0.0, cutmix=0.0)  # a view is of one sample

        @jax.jit
        def encode(params: Params, rest: Rest, batch: Batch, number: Any) -> Array:
            ctx = Context(jax.random.key(0), number)
            prepared = inputs.on_device(run.method.batch_spec, augment, batch, ctx)
            return pool(run.method.encode(params, rest, prepared), run.config.eval.pool)

        return encode

    def _attention(self, params: Params, rest: Rest) -> dict[str, float]:
        if not hasattr(self._run.method, "grid"):  # distances need one
            return {}
        with few_batches(self._run, self._source) as batches:
            host: dict[str, Any] = next(batches)
        batch = {name: self._run.place(name, rows) for name, rows in host.items()}
        valid = fetch(batch.pop("valid")).astype(bool)
        batch = {name: x for name, x in batch.items() if name in self._run.method.batch_spec}
        return summary([fetch(heads)[valid].mean(axis=0) for heads in self._reach(params, rest, batch)])
