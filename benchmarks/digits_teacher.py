"""Train the bundled teacher: a small ViT with labels, on the training split of scikit-learn's digits.

    python benchmarks/digits_teacher.py            writes mae_jax/teachers/bundled/digits_vit.npz (about a minute)

The result is a frozen network of family "workdir" (mae_jax/teachers/workdir.py), in float16.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mae_jax.core import tree
from mae_jax.data.sources.digits import Digits
from mae_jax.losses.cross_entropy import soft_cross_entropy
from mae_jax.nets.block import Transformer
from mae_jax.nets.layers import apply
from mae_jax.nets.tower import KINDS
from mae_jax.teachers.files import BUNDLED

TOWER = KINDS["workdir"](Transformer(dim=48, depth=4, heads=4), (8, 8), (2, 2), 1)
MEAN, STD = 0.3, 0.37  # of the configs that use it
STEPS, BATCH, RATE, DECAY, SMOOTHING = 1000, 128, 2e-3, 0.05, 0.1


def load(split: str) -> tuple[jax.Array, jax.Array]:
    """(normalised images [n, 8, 8, 1], labels [n])."""
    source = Digits().open(split)
    images = np.stack([source[i]["image"] for i in range(len(source))])
    return jnp.asarray(images / 255.0 - MEAN, jnp.float32) / STD, jnp.asarray(source.labels)


def shifted(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image moved by up to a pixel along each axis, its border repeated."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    starts = jax.random.randint(key, (len(images), 2), 0, 3)
    cut = lambda image, start: jax.lax.dynamic_slice(image, (start[0], start[1], 0), images.shape[1:])
    return jax.vmap(cut)(padded, starts)


def logits(params: dict, images: jax.Array) -> jax.Array:
    """From the class token and the mean of the patches, after the last norm."""
    tokens = apply(TOWER, params["tower"], images).normed
    pooled = tokens[:, 0] + tokens[:, 1:].mean(axis=1)
    return pooled @ params["head"]["kernel"] + params["head"]["bias"][None]


def main() -> None:
    images, labels = load("train")
    params = {
        "tower": TOWER.init(jax.random.key(0), images[:1])["params"],
        "head": {"kernel": jnp.zeros((48, 10)), "bias": jnp.zeros(10)},
    }
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, RATE, 100, STEPS), weight_decay=DECAY)

    @jax.jit
    def step(params, state, key):
        pick, move = jax.random.split(key)
        rows = jax.random.randint(pick, (BATCH,), 0, len(images))
        targets = optax.smooth_labels(jax.nn.one_hot(labels[rows], 10), SMOOTHING)
        loss = lambda p: soft_cross_entropy(logits(p, shifted(move, images[rows])), targets).mean()
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for i in range(STEPS):
        params, state = step(params, state, jax.random.fold_in(jax.random.key(1), i))
    params["tower"] = jax.tree.map(lambda x: x.astype(jnp.float16), params["tower"])
    stored = jax.tree.map(lambda x: x.astype(jnp.float32), params)  # what is measured is what is stored
    for split in ("train", "test"):
        x, y = load(split)
        print(f"{split}: {100 * (logits(stored, x).argmax(-1) == y).mean():.1f} % of {len(y)}")
    path = BUNDLED / "digits_vit.npz"
    np.savez_compressed(path, **{name: np.asarray(x) for name, x in tree.flatten(params["tower"]).items()})
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB, {tree.size(params['tower']):,} parameters")


if __name__ == "__main__":
    main()
