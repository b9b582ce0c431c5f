"""train --debug: the first NaN is named by its block and layer, and a batch is overfitted."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import config_file, tiny

from mae_jax.commands.main import main
from mae_jax.core import tree
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux
from mae_jax.methods.base import Leaf, Method
from mae_jax.nets.compute import Compute
from mae_jax.train.debug import told, verdict
from mae_jax.train.nonfinite import find, readable

REST = {"stats": {}, "ema": {}, "frozen": {}}


def loss(method, params, rest, batch):
    return method.loss(params, rest, batch, Context(jax.random.key(0)))


def test_a_nan_in_a_block_is_named_by_block_and_layer(tiny):
    method = dataclasses.replace(tiny, compute=Compute(scan=True, remat="full"))  # what a run may have asked for
    params, _ = jax.jit(method.init)(jax.random.key(0), {"image": jnp.zeros((1, 16, 16, 3))})
    flat = tree.flatten(params)
    path = "encoder/blocks/1/attn/qkv/kernel"
    flat[path] = flat[path].at[3, 3].set(jnp.nan)
    batch = {"image": jax.random.normal(jax.random.key(1), (4, 16, 16, 3))}
    found = find(method, loss, tree.unflatten(flat), REST, batch)
    assert np.isnan(found.loss) and found.broken[:2] == [
        "the loss is nan",
        f"weights {path}: 1 value(s) of 3072 not finite",
    ]
    place = "block 1 attn qkv (encoder/blocks/1/attn/qkv)"
    assert found.first.startswith(
        f"forward, at the output of {place}; the last one that was finite, the input of {place}"
    )
    assert "take an earlier checkpoint" in told(found)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for i in range(3):
            x = nn.Dense(4, name=f"dense{i}")(x)
        return x


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rooted(Method):
    """mean sqrt(y^2) of a small network's output: at 0 its value is fine, and its gradient is not."""

    name: ClassVar[str] = "rooted"

    @property
    def batch_spec(self):
        return {"x": Leaf((4,))}

    def loss(self, params, rest, batch, ctx):
        y = Net().apply({"params": params["net"]}, batch["x"])
        return jnp.sqrt(y**2).mean(), Aux(stats={}, seen={"y": y})


def test_a_gradient_that_breaks_behind_a_fine_loss():
    params = {"net": Net().init(jax.random.key(0), jnp.zeros((1, 4)))["params"]}
    fine = find(Rooted(), loss, params, REST, {"x": jnp.ones((2, 4))})
    assert fine.broken == [] and fine.first == "" and fine.gradients["net/dense0/kernel"] > 0
    found = find(Rooted(), loss, params, REST, {"x": jnp.zeros((2, 4))})
    assert found.loss == 0 and found.broken[0].startswith("gradients net/dense0/")
    assert found.first.startswith("backward, in the gradient of the output of net")
    assert "its gradient is not" in told(found)


def test_names_for_people():
    assert readable("encoder/blocks/7/attn/qkv") == "block 7 attn qkv (encoder/blocks/7/attn/qkv)"
    assert readable("decoder/cross_blocks/0") == "block 0 (decoder/cross_blocks/0)"
    assert readable("encoder/norm") == "encoder/norm"


def test_the_verb_says_what_it_saw(tmp_path, capsys):
    path = config_file(tmp_path / "tiny.py", tiny_config())
    assert main(["train", "--config", str(path), "--debug", "20"]) == 0
    out = capsys.readouterr().out
    for text in (
        "encoder/blocks",
        "(16, 8, 8, 1) uint8",
        "grid 4x4",
        "latent",
        "finite everywhere",
        "OK: the loss fell by",
    ):
        assert text in out, text
    assert {p.name for p in tmp_path.iterdir()} - {"__pycache__"} == {"tiny.py"}  # nothing is written
    assert main(["train", "--config", str(path), "--debug", "1"]) == 2
    assert main(["train", "--config", str(path)]) == 2 and "--workdir says where" in capsys.readouterr().err


def tiny_config():
    return tiny("optim.learning_rate=0.2", "augment.crop_scale=none")


@pytest.mark.parametrize(
    "losses, moved, status, message",
    [
        ([2.0, 1.0, 1.0], {}, 0, "fell by 50.0%"),
        ([2.0, 1.99, 1.99], {"update_norm/a": 1e-6}, 1, "a higher optim.learning_rate"),
        ([2.0, 2.5, 3.0], {"update_norm/a": 1.0}, 1, "rose by 50.0%"),
        ([-1.0, -2.0, -2.0], {}, 0, "fell by 100.0%"),
    ],
)
def test_the_verdict(capsys, losses, moved, status, message):
    assert verdict(losses, moved) == status and message in capsys.readouterr().out
