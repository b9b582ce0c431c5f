"""A run's batches: this process's share, by number. Apart from build.py, which needs no grain."""

from typing import Any

from mae_jax.core.mesh import share as mesh_share
from mae_jax.data import pipeline
from mae_jax.data.sources import Source
from mae_jax.train.build import Run
from mae_jax.train.numbers import data_seed


def train_batches(run: Run, source: Source, start: int, order: int = 0) -> pipeline.Batches:
    """Shuffled and augmented batches from number `start` on, without end.

    Args: order: which order and augmentation of the data (train/numbers.py: Record); 0 is that of train.seed.
    """
    train, data = run.config.train, run.config.data
    stages = [(first, run.at(first).views(True)) for first in run.changes]
    return pipeline.train_batches(
        source,
        stages,
        batch=train.batch,
        seed=data_seed(train.seed, order),
        start=start,
        repeats=data.repeats,
        **share(run),
    )


def eval_batches(run: Run, source: Source, start: int = 0, view: int = 0) -> pipeline.Batches:
    """The split once, in order, without augmentation, from batch number `start` on; one of `run.vote_views`."""
    settings = run.config.eval
    return pipeline.eval_batches(
        source, run.views(False, view), batch=settings.batch, limit=settings.limit, start=start, **share(run)
    )


def view_batches(run: Run, source: Source, samples: int, views: int) -> tuple[pipeline.Batches, int]:
    """(batches, how many of them to take): `views` augmented views in a row of each of `samples` records.

    The records and their augmentation are the same each time (seed 0), whatever the run's.
    """
    batch = views * run.mesh.size * max(1, run.config.eval.batch // (views * run.mesh.size))
    batches = pipeline.train_batches(source, run.views(True), batch=batch, seed=0, repeats=views, **share(run))
    return batches, -(-samples * views // batch)


def few_batches(run: Run, source: Source) -> pipeline.Batches:
    """One batch of the split, of records spread over it, without augmentation."""
    batch = run.config.eval.batch
    return pipeline.eval_batches(source, run.views(False), batch=batch, limit=batch, **share(run))


def eval_pass(run: Run, source: Source) -> tuple[int, int]:
    """(number of batches, samples in each) of `eval_batches`."""
    limit, batch = run.config.eval.limit, run.config.eval.batch
    return -(-min(len(source), limit or len(source)) // batch), batch


def share(run: Run) -> dict[str, Any]:
    """Which rows this process computes, and with what."""
    data = run.config.data
    own = mesh_share(run.mesh)
    return {
        "process_index": own.part, "process_count": own.parts,
        "workers": data.workers, "memory_mb": data.memory_mb, "max_bad": data.max_bad,
    }  # fmt: skip
