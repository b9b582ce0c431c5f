"""The hash of arrays in the host's memory, by blocks and threads, is the one of the definition."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core.hashing import array_hash, tree_hash, tree_hash_later

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [0, 1, (1 << 14) - 1, 1 << 14, (1 << 14) + 1, (1 << 20) + (1 << 14) + 5, 3 << 20])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "uint8"])
def test_blocks_of_any_size(size, dtype):
    x = jnp.asarray(RNG.integers(0, 2**31, size), dtype)
    assert tree_hash({"x": x}) == tree_hash_later({"x": x})() == {"x": array_hash(np.asarray(x))}


def test_wide_and_strided_host_arrays():
    wide = RNG.normal(size=(300, 77))
    tree = {"f64": wide, "order": np.asfortranarray(wide), "strided": wide[::2, ::3]}
    assert tree_hash(tree) == {name: array_hash(x) for name, x in tree.items()}
    assert tree_hash(tree)["f64"] == tree_hash(tree)["order"]


def test_later_is_of_what_was_there():
    """A step takes the arrays over, and the caller writes into his, before they are summed."""
    x, own = jnp.asarray(RNG.normal(size=(300, 70)), jnp.float32), RNG.normal(size=40)
    expected = tree_hash({"x": x, "own": own})
    later = tree_hash_later({"x": x, "own": own})
    y = jax.jit(lambda x: x + 1, donate_argnums=0)(x)
    own += 1
    y.block_until_ready()
    assert later() == expected == later()
    kept = weakref.ref(x)
    del x
    gc.collect()
    assert kept() is None  # once it is summed, nothing holds its memory


def test_every_flipped_bit_and_every_swap_counts():
    x = RNG.integers(0, 2**32, (1 << 14) + 7, dtype=np.uint32)
    seen = {tree_hash([x])["0"]}
    for position in (0, 5, 4095, 4096, (1 << 14) - 1, 1 << 14, (1 << 14) + 6):
        for bit in (0, 13, 31):
            y = x.copy()
            y[position] ^= np.uint32(1 << bit)
            seen.add(tree_hash([y])["0"])
        y = x.copy()
        y[[position, (position + 1) % len(y)]] = y[[(position + 1) % len(y), position]]
        seen.add(tree_hash([y])["0"])
    assert len(seen) == 1 + 7 * 4
