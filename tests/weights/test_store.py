"""The native weights file, and runs opened from it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import tiny

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.train.build import build
from mae_jax.weights import store
from mae_jax.weights.opened import opened


@pytest.fixture(scope="module")
def weights():
    config = tiny()
    state = jax.device_get(build(config).init(("params", "stats", "ema")))
    return store.Weights(
        json.loads(json.dumps(config.to_dict())), state["params"], state["stats"], state["ema"],
        info={"kind": "pretraining", "norm_pix": False, "step": 7},
    )  # fmt: skip


def test_what_is_written_is_read_to_the_bit(weights, tmp_path):
    found = store.read(store.write(tmp_path / "w.safetensors", weights))
    ours, theirs = tree.flatten(weights.params), tree.flatten(found.params)
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path])
    assert found.config == weights.config and found.info["step"] == 7 and found.head is None


def test_opened_lays_it_out_and_names_the_step(weights, tmp_path):
    o = opened(store.write(tmp_path / "w.safetensors", weights), ["eval.batch=64"])
    assert int(o.state["step"]) == 7 and o.config.eval.batch == 64
    features = o.run.method.encode(o.state["params"], o.rest, {"image": jnp.zeros((8, 8, 8, 1))})
    assert features.tokens.shape == (8, 16, 16)


def test_an_encoder_alone_opens_only_where_it_says_so(weights, tmp_path):
    encoder = {"encoder": weights.params["encoder"]}
    with pytest.raises(UserError, match="decoder/.*missing"):
        opened(store.write(tmp_path / "a.safetensors", store.Weights(weights.config, encoder, info=weights.info)))
    info = weights.info | {"kind": "encoder"}
    o = opened(store.write(tmp_path / "b.safetensors", store.Weights(weights.config, encoder, info=info)))
    assert set(o.state["params"]) == {"encoder"}


def test_other_files_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="no weights file of mae_jax"):
        store.read(tmp_path / "x.npz")
    with pytest.raises(UserError, match="no weights at"):
        store.open_weights(tmp_path / "nothing")
