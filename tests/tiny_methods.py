"""A small instance of every method, and inputs for it: what the tests that hold for all methods run on."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mae_jax import methods
from mae_jax.core.types import Batch
from mae_jax.testing import conformance

# A small instance per method: {name: fields}.
TINY: dict[str, dict[str, Any]] = {
    "mae": dict(
        image_size=(8, 16), patch=(2, 4), channels=2, dim=16, depth=2, heads=2, decoder_dim=12, decoder_depth=1,
        decoder_heads=3,
    ),
    "hiendmae": dict(
        volume_size=(8, 4, 12), patch=(4, 2, 4), channels=2, dim=24, depth=3, heads=2, memory=(0, 1), decoder_dim=12,
        decoder_depth=1, decoder_heads=3,
    ),
    "pointmae": dict(
        points=32, groups=8, group_points=5, dim=12, depth=2, heads=2, decoder_depth=1, decoder_heads=3, mask_ratio=0.6,
        class_token=True,
    ),
    "pointcmae": dict(
        points=32, groups=8, group_points=5, dim=12, depth=2, heads=2, decoder_depth=1, decoder_heads=3, mask_ratio=0.6,
        chamfer="l1", reconstruction_weight=1.0,
    ),
    "croma": dict(
        image_size=(12, 8), patch=2, optical=3, radar=1, dim=48, depth=2, heads=3, decoder_dim=16, decoder_heads=4,
    ),
    "cae": dict(
        image_size=(8, 16), patch=(2, 4), channels=2, dim=16, depth=2, heads=2, decoder_dim=12, decoder_heads=3,
        regressor_depth=2, decoder_depth=1, tokenizer="kmeans", vocab=5, masked=9, block_min=2,
    ),
    "lut": dict(
        image_size=(8, 16), patch=(2, 4), channels=2, dim=16, depth=2, heads=2, decoder_dim=12, decoder_depth=1,
        decoder_heads=3, head_hidden=20,
    ),
    "maskalign": dict(
        image_size=(8, 16), patch=(2, 4), channels=2, dim=16, depth=3, heads=2, teacher="dino", teacher_dim=12,
        teacher_depth=2, teacher_heads=3, teacher_patch=(2, 4), teacher_size=(8, 16), layer_weights="out", fusion="sum",
        head="mlp2",
    ),
    "spark": dict(
        image_size=(16, 24), channels=2, block="basic", dims=(8, 12), depths=(1, 2), stem_stride=2, stem_dim=8,
        drop_path=0.2, decoder_dim=12,
    ),
    "colormae": dict(
        image_size=(8, 16), patch=(2, 4), channels=2, dim=16, depth=2, heads=2, decoder_dim=12, decoder_depth=1,
        decoder_heads=3, patterns=3, pattern_size=(7, 6), schedule=((4, "red"),),
    ),
    "dmae": dict(
        image_size=(8, 16), patch=(2, 4), channels=2, dim=16, depth=3, heads=2, decoder_dim=12, decoder_depth=1,
        decoder_heads=3, pairs=((0, 1), (1, 2)), head="mlp", teacher_dim=12, teacher_depth=4, teacher_heads=3,
    ),
    "birdmae": dict(
        spectrogram_size=(24, 16), patch=(2, 4), dim=16, depth=2, heads=2, decoder_blocks="window", decoder_dim=12,
        decoder_depth=2, decoder_heads=3,
    ),
    "graphmae": dict(
        task="graph", nodes=10, edges=26, features=6, dim=16, depth=2, heads=2, norm="layer", residual=True,
        concat_hidden=True, replace_ratio=0.2, drop_edge=0.2, alpha=2.0,
    ),
    "videomae": dict(
        frames=4, image_size=(8, 12), patch=4, dim=16, depth=2, heads=2, decoder_dim=12, decoder_depth=1,
        decoder_heads=3, mask_ratio=0.7,
    ),
    "videomaev2": dict(
        frames=8, image_size=(8, 16), patch=(4, 2), dim=16, depth=2, heads=2, decoder_dim=12, decoder_depth=1,
        decoder_heads=3, mask_ratio=0.8, cosine=True,
    ),
}  # fmt: skip


def rings(method: Any, samples: int) -> Batch:
    """Graphs whose nodes stand in a ring, with self-loops; every other one lacks the last node."""
    size = jnp.where(jnp.arange(samples) % 2 == 0, method.nodes, method.nodes - 1)[:, None]
    edge = jnp.arange(method.edges)[None]
    sender = jnp.minimum(edge, 2 * size) % size
    return {
        "nodes": conformance.random_leaf(0, method.batch_spec["nodes"], samples),
        "senders": sender.astype(jnp.int32),
        "receivers": jnp.where(edge < size, sender, (sender + 1) % size).astype(jnp.int32),
        "edge_valid": edge < 2 * size,
        "node_valid": jnp.arange(method.nodes)[None] < size,
    }


# Where random numbers make no sense as a batch: {name: (method, samples) -> batch}.
BATCHES: dict[str, Callable[[Any, int], Batch]] = {"graphmae": rings}

# A decision given in the leak test, because this method's mask depends on what it hides: {name: batch -> given}.
GIVEN: dict[str, Callable[[Any, Batch], Mapping[str, Any]]] = {
    "maskalign": lambda method, batch: {"order": jax.random.uniform(jax.random.key(0), (len(batch["image"]), 16))},
}

# Exemptions: {(name, test): why}.
DECLARED: dict[tuple[str, str], str] = {
    ("pointmae", "leak"): "reads point clouds, whose groups overlap: tests/methods/test_pointmae.py has its own",
    ("pointcmae", "leak"): "reads point clouds, whose groups overlap: tests/methods/test_pointmae.py has Point-MAE's",
    ("graphmae", "leak"): "reads graphs, and nodes see their neighbours: tests/methods/test_graphmae.py has its own",
    ("birdmae", "cost"): "the network of positions runs once per batch: tests/methods/test_birdmae.py has its own",
    ("birdmae", "leak"): "reads spectrograms: tests/methods/test_birdmae.py has its own",
    ("hiendmae", "leak"): "reads volumes: tests/methods/test_hiendmae.py has its own",
}


def make_batch(name: str, samples: int = 4) -> Batch:
    """Normal numbers, small integers, True: as the loss gets them."""
    method = methods.get(name)(**TINY[name])
    return BATCHES[name](method, samples) if name in BATCHES else conformance.random_batch(method, samples)


@functools.cache
def make(name: str, samples: int = 4):
    """(method, params, rest, batch) of the tiny instance; parameters are moved off their zeros and ones."""
    case = conformance.case(methods.get(name)(**TINY[name]), make_batch(name, samples))
    return case.method, case.params, case.rest, case.batch
