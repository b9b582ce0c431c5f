"""A run's batches: this process's share, by number. Apart from build.py, which needs no grain."""

from typing import Any

import jax

from mae_jax.data import pipeline
from mae_jax.data.sources import Source
from mae_jax.train.build import Run


def train_batches(run: Run, source: Source, start: int) -> pipeline.Batches:
    """Shuffled and augmented batches from number `start` on, without end."""
    train, data = run.config.train, run.config.data
    stages = [(first, run.at(first).views(True)) for first in run.changes]
    return pipeline.train_batches(
        source, stages, batch=train.batch, seed=train.seed, start=start, repeats=data.repeats, **_share(run)
    )


def eval_batches(run: Run, source: Source) -> pipeline.Batches:
    """The split once, in order, without augmentation."""
    settings = run.config.eval
    return pipeline.eval_batches(source, run.views(False), batch=settings.batch, limit=settings.limit, **_share(run))


def _share(run: Run) -> dict[str, Any]:
    """Which rows this process computes, and with what."""
    data = run.config.data
    return {
        "process_index": jax.process_index(), "process_count": jax.process_count(),
        "workers": data.workers, "memory_mb": data.memory_mb, "max_bad": data.max_bad,
    }  # fmt: skip
