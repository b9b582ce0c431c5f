import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from mae_jax.core.errors import UserError
from mae_jax.core.mesh import batch_sharding, make_mesh, replicated
from mae_jax.core.types import Features
from mae_jax.eval.run import Evaluator
from mae_jax.methods.base import Leaf, Method
from mae_jax.schema import Augment
from mae_jax.train.inputs import on_device

MEAN, STD = (0.305,), (0.376,)


def prepare(batch):
    return on_device(Rows().batch_spec, Augment(mean=MEAN, std=STD), batch, None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows(Method):
    """Each row of an 8 x 8 image is a token, projected by one matrix."""

    name: ClassVar[str] = "rows"
    size: int = 8

    @property
    def batch_spec(self):
        return {"image": Leaf((self.size, self.size, 1))}

    def encode(self, params, rest, batch, *, ctx=None, train=False):
        assert batch["image"].dtype == jnp.float32
        tokens = batch["image"][..., 0] @ params["kernel"]
        weight = jnp.linspace(0.5, 1.5, tokens.shape[1])[None, :, None]
        return Features(tokens=tokens, normed=tokens * weight, prefix=tokens[:, :0], grid=(8, 1))


def digits(first, last, size=64):
    """Batches of uint8 images, the last one padded."""
    data = load_digits()
    image = np.round(data.images * 255 / 16).astype(np.uint8)[..., None]
    for start in range(first, last, size):
        rows = np.arange(start, start + size)
        real = rows < last
        rows = np.where(real, rows, first)
        yield {"image": image[rows], "label": data.target[rows], "valid": real}


def weights(scale=1.0):
    kernel = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32) * np.float32(scale)
    return {"kernel": jnp.asarray(kernel)}, {"stats": {}, "ema": {}, "frozen": {}}


def test_sets_and_pixels_are_probed_on_the_same_samples():
    evaluator = Evaluator(Rows(), prepare, protocols=("knn", "five_shot"))
    sets = {"pretrained": weights(), "random": weights(-3.0)}
    found = evaluator(sets, digits(0, 1000), digits(1000, 1300))
    assert list(found) == ["pretrained", "random", "raw"]
    assert set(found["raw"]) == {"knn", "five_shot"}
    # A factor on the features changes neither cosine nor ridge, except for ties.
    assert found["random"]["knn"].accuracy == pytest.approx(found["pretrained"]["knn"].accuracy, abs=0.7)
    assert 30 < found["pretrained"]["five_shot"].accuracy < found["raw"]["five_shot"].accuracy


def test_pixels_are_normalised():
    evaluator = Evaluator(Rows(), prepare)
    raw = evaluator.features({}, digits(0, 100))["raw"]
    expected = (np.round(load_digits().data[:100] * 255 / 16) / 255 - MEAN[0]) / STD[0]
    np.testing.assert_allclose(raw.features, expected, atol=1e-5)


def test_one_device_equals_eight():
    mesh = make_mesh(data=4, fsdp=2)
    params, rest = weights()
    one = Evaluator(Rows(), prepare).features({"x": (params, rest)}, digits(0, 150))
    placed = jax.device_put(params, replicated(mesh))
    eight = Evaluator(Rows(), prepare, place=lambda name, x: jax.device_put(x, batch_sharding(mesh))).features(
        {"x": (placed, rest)}, digits(0, 150)
    )
    np.testing.assert_allclose(one["x"].features, eight["x"].features, atol=1e-6)
    np.testing.assert_array_equal(one["x"].labels, load_digits().target[:150])
    np.testing.assert_array_equal(eight["x"].labels, load_digits().target[:150])


def test_compiles_once_for_all_sets_and_calls():
    evaluator = Evaluator(Rows(), prepare, raw=False)
    for scale in (1.0, 2.0):
        evaluator.features({"a": weights(scale), "b": weights(scale + 5)}, digits(0, 100))
    assert evaluator._encode._cache_size() == 1


def test_what_can_be_wrong_is_said_before_the_data_are_read():
    with pytest.raises(UserError, match="'knn'"):
        Evaluator(Rows(), prepare, protocols=("knnn",))
    with pytest.raises(UserError, match="eval.pool='first'"):
        Evaluator(Rows(), prepare, how="first")
    with pytest.raises(UserError, match=r"eval.raw=False"):
        Evaluator(Rows(size=300), prepare)
    Evaluator(Rows(size=300), prepare, raw=False)


def test_check_traces_shapes_only():
    evaluator = Evaluator(Rows(), prepare, how="class")
    shapes = {
        "image": jax.ShapeDtypeStruct((4, 8, 8, 1), np.uint8), "label": jax.ShapeDtypeStruct((4,), np.int32)
    }  # fmt: skip
    params = {"kernel": jax.ShapeDtypeStruct((8, 16), np.float32)}
    with pytest.raises(UserError, match="class token"):
        evaluator.check(params, {"stats": {}}, shapes)
