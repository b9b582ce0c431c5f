"""Attention in windows, as Audio-MAE's decoder has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.nets.block import Transformer
from mae_jax.nets.window import APART, WindowAttention, WindowBlock, Windows, WindowStack, offsets

GRID = (8, 4)
SHAPE = Transformer(dim=8, depth=1, heads=2)


def moved(module, x, at, *args):
    """Which tokens of the output change with token `at` of the input."""
    params = jax.jit(module.init)(jax.random.key(0), x, *args)
    run = jax.jit(lambda x: module.apply(params, x, *args))
    change = run(x.at[:, at].add(1.0)) - run(x)
    return (jnp.abs(change[0]).max(axis=-1) > 1e-6).reshape(GRID)


def test_without_a_shift_nothing_passes_between_windows():
    x = jax.random.normal(jax.random.key(1), (1, 32, 8))
    windows = Windows(GRID, (4, 2), (2, 0))
    changed = moved(WindowBlock(SHAPE, windows), x, 5, jnp.array(False))  # row 1, column 1
    assert changed[:4, :2].all() and changed.sum() == 8
    shifted = moved(WindowBlock(SHAPE, windows), x, 5, jnp.array(True))  # windows of rows 2-5 and, apart, 6-7 and 0-1
    assert shifted[:2, :2].all() and shifted.sum() == 4


def test_two_blocks_with_a_shift_pass_in_time_alone():
    x = jax.random.normal(jax.random.key(1), (1, 32, 8))
    stack = WindowStack(Transformer(dim=8, depth=2, heads=2), Windows(GRID, (4, 2), (2, 0)))
    changed = moved(stack, x, 12)  # row 3, column 0
    assert changed[:6, :2].all() and not changed[6:].any() and not changed[:, 2:].any()


def test_cutting_and_joining_are_inverse_and_the_mask_is_swins():
    windows = Windows(GRID, (4, 2), (2, 1))
    x = jnp.arange(2 * 32 * 3.0).reshape(2, 32, 3)
    np.testing.assert_array_equal(windows.join(windows.cut(x)), x)
    np.testing.assert_array_equal(windows.roll(windows.roll(x, -1), 1), x)
    # A pair may look at each other after the shift only if it lay at the window's distance before.
    place = np.stack(np.indices(GRID), axis=-1).reshape(1, 32, 2).astype(np.float32)
    rolled = np.asarray(windows.cut(windows.roll(jnp.asarray(place), -1)))[0]  # [w, m, 2]: where each was
    gap = np.abs(rolled[:, :, None] - rolled[:, None]) >= np.array(windows.window)
    np.testing.assert_array_equal(windows.mask(), np.where(gap.any(-1), APART, 0.0))
    small = Windows((2, 8), (4, 4), (2, 2))
    assert small.window == (2, 4) and small.shift == (0, 2) and Windows((101, 12), (6, 6), (2, 0)).padded == (102, 12)


@pytest.mark.parametrize("kind", ["early", "v2"])
def test_at_a_high_temperature_without_positions_attention_is_uniform(kind):
    attention = WindowAttention(2, Windows(GRID, (4, 2), (2, 0)), kind)
    x = jax.random.normal(jax.random.key(2), (1, 4, 8, 8))
    params = jax.jit(attention.init)(jax.random.key(0), x, jnp.array(False))["params"]
    apply = jax.jit(lambda params, x: attention.apply({"params": params}, x, jnp.array(False)))
    assert params["temperature"].tolist() == pytest.approx([1.0, 1.0] if kind == "early" else [np.log(10)] * 2)
    zero = jax.tree.map(jnp.zeros_like, params["position_fc2"])
    flat = {**params, "temperature": jnp.full(2, 1e6 if kind == "early" else -30.0), "position_fc2": zero}
    out = apply(flat, x)
    np.testing.assert_allclose(out, jnp.broadcast_to(out[:, :, :1], out.shape), atol=1e-5)
    sharp = apply(params, x)
    assert np.abs(sharp - sharp[:, :, :1]).max() > 1e-2
    longer = apply(params, 7.0 * x)  # a cosine sees no lengths
    if kind == "v2":  # without biases
        np.testing.assert_allclose(longer, 7.0 * sharp, rtol=1e-4, atol=1e-5)


def test_offsets_are_logarithmic_and_dropout_needs_a_key():
    table = offsets((4, 2), "early").reshape(8, 8, 2)
    np.testing.assert_allclose(table[7, 0], np.log([4.0, 2.0]), rtol=1e-6)  # 3 rows and 1 column ahead
    np.testing.assert_allclose(table, -table.swapaxes(0, 1))
    np.testing.assert_allclose(np.abs(offsets((4, 2), "v2")).max(), np.log2(9) / 3, rtol=1e-6)
    attention = WindowAttention(2, Windows(GRID, (4, 2), (2, 0)))
    x = jax.random.normal(jax.random.key(2), (1, 4, 8, 8))
    params = jax.jit(attention.init)(jax.random.key(0), x, jnp.array(False))
    apply = jax.jit(lambda key: attention.apply(params, x, jnp.array(False), key))
    plain, one, two = (apply(key) for key in (None, *jax.random.split(jax.random.key(0))))
    assert not np.allclose(plain, one) and not np.allclose(one, two) and np.allclose(plain, (one + two) / 2, atol=0.3)
