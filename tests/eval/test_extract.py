import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.core.mesh import batch_sharding, make_mesh
from mae_jax.core.types import Features
from mae_jax.eval.features import extract, pool


def some_features(valid=None, prefix=1):
    rng = np.random.default_rng(0)
    tokens, normed, first = (jnp.asarray(rng.normal(size=(2, n, 4)), jnp.float32) for n in (6, 6, prefix))
    return Features(tokens=tokens, normed=normed, prefix=first, grid=(2, 3), valid=valid)


def test_pools():
    f = some_features()
    np.testing.assert_allclose(pool(f, "mean"), np.mean(f.normed, axis=1), rtol=1e-6)
    np.testing.assert_allclose(pool(f, "raw_mean"), np.mean(f.tokens, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(pool(f, "class"), f.prefix[:, 0])


def test_mean_is_over_valid_tokens_even_beside_nan():
    valid = np.array([[True] * 4 + [False] * 2, [True] * 6])
    f = some_features(jnp.asarray(valid))
    normed = np.array(f.normed)
    expected = np.stack([normed[0, :4].mean(axis=0), normed[1].mean(axis=0)])
    normed[0, 4:] = np.nan
    broken = Features(tokens=f.tokens, normed=jnp.asarray(normed), prefix=f.prefix, grid=f.grid, valid=f.valid)
    np.testing.assert_allclose(pool(broken, "mean"), expected, rtol=1e-6)


def test_half_precision_is_pooled_in_float32():
    """4096 ones in bfloat16 would sum to 256 and stay there."""
    ones = jnp.ones((1, 4096, 1), jnp.bfloat16)
    f = Features(tokens=ones, normed=ones, prefix=ones[:, :1], grid=(64, 64), valid=jnp.ones((1, 4096), bool))
    assert pool(f, "mean").dtype == jnp.float32
    assert pool(f, "mean")[0, 0] == 1.0


def test_class_token_where_there_is_none():
    with pytest.raises(UserError, match="no class token|has none"):
        pool(some_features(prefix=0), "class")


def test_unknown_pool_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'mean'"):
        pool(some_features(), "meen")


def batches(n=22, size=8, label=True):
    image = np.arange(n * 3, dtype=np.float32).reshape(n, 3)
    for start in range(0, n, size):
        rows = np.arange(start, start + size)
        real = rows < n
        rows = np.where(real, rows, 0)
        yield {"image": image[rows], "valid": real} | ({"label": (rows % 5).astype(np.int32)} if label else {})


@pytest.mark.parametrize("sharded", [False, True])
def test_extract_keeps_order_and_leaves_padding_out(sharded):
    place = (lambda name, x: jax.device_put(x, batch_sharding(make_mesh()))) if sharded else None
    encoders = {
        "double": jax.jit(lambda batch: 2 * batch["image"]),
        "half": jax.jit(lambda batch: 0.5 * batch["image"].astype(jnp.bfloat16)),
    }
    found = extract(encoders, batches(), place=place)
    expected = np.arange(66, dtype=np.float32).reshape(22, 3)
    np.testing.assert_array_equal(found["double"].features, 2 * expected)
    np.testing.assert_array_equal(found["half"].features, expected / 2)
    np.testing.assert_array_equal(found["half"].labels, np.arange(22) % 5)
    assert found["half"].features.dtype == np.float32
    assert found["half"].labels.dtype == np.int64


def test_encoder_gets_neither_labels_nor_padding_flags():
    seen = []
    extract({"x": lambda batch: (seen.append(set(batch)), batch["image"])[1]}, batches())
    assert seen == [{"image"}] * 3


def test_no_labels_no_samples_no_finite_features():
    identity = {"online": lambda batch: batch["image"]}
    with pytest.raises(UserError, match="'label'"):
        extract(identity, batches(label=False))
    with pytest.raises(UserError, match="no samples"):
        extract(identity, [])
    with pytest.raises(UserError, match="1 of 22 feature vectors of 'online'"):
        extract({"online": lambda batch: np.where(batch["image"] == 30, np.nan, batch["image"])}, batches())


def test_with_a_label_per_token_every_labelled_token_is_a_sample():
    tokens = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    batch = {"nodes": tokens, "label": np.array([[0, -1, 2], [1, 1, -1]]), "valid": np.array([True, True])}
    found = extract({"x": lambda b: b["nodes"]}, [batch])["x"]
    np.testing.assert_array_equal(found.features, tokens.reshape(6, 4)[[0, 2, 3, 4]])
    np.testing.assert_array_equal(found.labels, [0, 2, 1, 1])
    with pytest.raises(UserError, match="eval.pool='tokens'"):
        extract({"x": lambda b: b["nodes"].mean(1)}, [batch])
