"""A run's batches: this process's share, by number. Apart from build.py, which needs no grain."""

import jax

from mae_jax.data import pipeline
from mae_jax.data.sources import Source
from mae_jax.train.build import Run


def train_batches(run: Run, source: Source, start: int) -> pipeline.Batches:
    """Shuffled and augmented batches from number `start` on, without end."""
    train = run.config.train
    return pipeline.train_batches(
        source, run.views(True), batch=train.batch, seed=train.seed, start=start,
        process_index=jax.process_index(), process_count=jax.process_count(), workers=run.config.data.workers,
    )  # fmt: skip


def eval_batches(run: Run, source: Source) -> pipeline.Batches:
    """The split once, in order, without augmentation."""
    settings = run.config.eval
    return pipeline.eval_batches(
        source, run.views(False), batch=settings.batch, limit=settings.limit,
        process_index=jax.process_index(), process_count=jax.process_count(), workers=run.config.data.workers,
    )  # fmt: skip
