"""A method outside the package with parameters of its own names: how they lie and decay, on one device and on eight."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import tiny

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.methods.base import Rule
from mae_jax.methods.mae import MAE
from mae_jax.schema import Optim
from mae_jax.testing import conformance
from mae_jax.train.build import build
from mae_jax.train.optimizers import make_optimizer
from mae_jax.transfer.finetune import FineTune


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codes(MAE):
    __doc__ = MAE.__doc__
    name = "codes"

    def init(self, key, batch):
        params, stats = super().init(key, batch)
        codes = jax.random.normal(key, (self.dim, 4), jnp.float32)
        return params | {"codes": {"book": codes, "gate": jnp.ones(4)}}, stats

    def loss(self, params, rest, batch, ctx):
        loss, aux = super().loss({k: v for k, v in params.items() if k != "codes"}, rest, batch, ctx)
        codes = params["codes"]
        return loss + 0.1 * jnp.square(codes["book"] * codes["gate"][None]).mean(), aux

    def encode(self, params, rest, batch, **options):
        return super().encode({k: v for k, v in params.items() if k != "codes"}, rest, batch, **options)


class Ruled(Codes):
    __doc__ = MAE.__doc__
    name = "ruled"

    @property
    def rules(self):
        return {r"/book$": Rule("split", decay=1.0), r"/gate$": Rule("whole", decay=0.0)}


def method(cls):
    return cls(**{k: v for k, v in tiny().method.items() if k != "name"})


def stepped(sizes, count):
    run = build(tiny("train.batch=8", **sizes), jax.devices()[:count], method(Ruled))
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
    state, metrics = run.step(run.init(), {}, run.put({"image": image}), run.method.plan(0))
    return run, jax.device_get(state["params"]), float(metrics["loss"])


def test_rules_are_needed_and_the_error_says_where():
    with pytest.raises(UserError, match=r"codes/book, codes/gate.*Method\.rules"):
        build(tiny(), jax.devices()[:1], method(Codes))
    with pytest.raises(Exception, match="codes/book"):
        conformance.run("rules", conformance.case(method(Codes)))
    conformance.run("rules", conformance.case(method(Ruled)))


def test_they_say_how_a_parameter_lies_and_eight_devices_are_one():
    one, whole, loss = stepped({}, 1)
    eight, parts, same = stepped({"mesh": {"fsdp": 4}}, 8)
    book = eight.shapes["params"]["codes"]["book"]
    assert "fsdp" in book.sharding.spec and not any(eight.shapes["params"]["codes"]["gate"].sharding.spec)
    moments = [leaf for path, leaf in tree.flatten(eight.shapes["opt"]).items() if path.endswith("codes/book")]
    assert len(moments) == 2 and all(leaf.sharding == book.sharding for leaf in moments)
    np.testing.assert_allclose(loss, same, rtol=1e-5)
    for path, leaf in tree.flatten(whole).items():
        np.testing.assert_allclose(tree.flatten(parts)[path], leaf, rtol=2e-5, atol=2e-6, err_msg=path)


def test_they_say_what_decays_and_the_config_comes_first():
    params = {"codes": {"book": jnp.ones((4, 4)), "gate": jnp.ones(4)}}
    own = (("/book$", 1.0), ("/gate$", 0.0))

    def direction(optim):
        optimizer = make_optimizer(optim, params, 10, own)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optimizer.update(zeros, optimizer.init(params), params, step=jnp.int32(0), rate=1.0)[0]["codes"]

    found = direction(Optim(weight_decay=0.25))
    assert (found["book"] == 0.25).all() and (found["gate"] == 0).all()
    found = direction(Optim(weight_decay=0.25, decay_rules=(("gate", 1.0), *Optim.decay_rules)))
    assert (found["gate"] == 0.25).all()


def test_fine_tuning_keeps_them():
    inner = method(Ruled)
    assert FineTune(inner=inner, classes=3, compute=inner.compute).rules == inner.rules
