"""What every method must satisfy (testing/conformance.py): a new file in methods/ adds a line to tiny_methods.py."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from tiny_methods import DECLARED, GIVEN, TINY, make

from mae_jax import methods
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.methods.mae import MAE
from mae_jax.testing import conformance


@pytest.fixture(params=methods.names())
def name(request):
    return request.param


def test_every_method_has_a_tiny_instance():
    assert set(TINY) == set(methods.names())


def test_the_name_is_that_of_the_file(name):
    assert methods.get(name).name == name


def held_to(check):
    """The test that holds every method to one check of the table."""

    def test(name):
        if (name, check) in DECLARED:
            pytest.skip(DECLARED[name, check])
        try:
            conformance.run(check, conformance.Case(*make(name), GIVEN.get(name)))
        except conformance.Skip as why:
            pytest.skip(str(why))

    return test


for short, function in conformance.CHECKS.items():
    globals()[f"test_{function.__name__}"] = held_to(short)


# The table itself: each check is seen to fail -------------------------------------------------------------------------

SMALL = dict(
    image_size=8, patch=2, channels=1, dim=8, depth=1, heads=2, decoder_dim=8, decoder_depth=1, decoder_heads=2
)


def wrong(base=MAE, **members):
    """A small MAE in which something is wrong."""
    cls = type("Wrong", (base,), {"__doc__": MAE.__doc__, **members})
    return cls(**SMALL)


def leaky_loss(self, params, rest, batch, ctx):
    loss, aux = MAE.loss(self, params, rest, batch, ctx)
    latent = aux.seen["latent"] + batch["image"].mean(axis=(1, 2, 3))[:, None, None]
    return loss, dataclasses.replace(aux, seen=aux.seen | {"latent": latent})


def dead_loss(self, params, rest, batch, ctx):
    norm = {"scale": jnp.ones(self.dim), "bias": jnp.zeros(self.dim)}
    return MAE.loss(self, params | {"encoder": params["encoder"] | {"norm": norm}}, rest, batch, ctx)


def still_loss(self, params, rest, batch, ctx):
    return MAE.loss(self, params, rest, batch, Context(jax.random.key(0), 0))


def dear(self):
    return dataclasses.replace(MAE.cost(self), forward=1.1 * MAE.cost(self).forward)


def half_loss(self, params, rest, batch, ctx):
    loss, aux = MAE.loss(self, params, rest, batch, ctx)
    return loss.astype(self.compute.dtype), aux


def vector_metric_loss(self, params, rest, batch, ctx):
    loss, aux = MAE.loss(self, params, rest, batch, ctx)
    return loss, dataclasses.replace(aux, metrics={"loss": loss, "per": jnp.ones(3)})


WRONG = {
    "fields": (dict(__doc__="Says nothing of its fields."), "wrong.image_size is not in the docstring"),
    "gradients": (dict(loss=dead_loss), "encoder/norm/bias: gradient is zero"),
    "gradients of metrics": (dict(loss=vector_metric_loss), "metric 'per' has the shape (3,); a scalar expected"),
    "draws": (dict(loss=still_loss), "steps 5 and 6 gave the same loss"),
    "leak": (dict(loss=leaky_loss), "hidden pixels reach the encoder"),
    "pictures": (dict(pictures=lambda self, seen, batch: {}), "has no 'original'"),
    "bfloat16": (dict(loss=half_loss), "the loss is bfloat16"),
    "cost": (dict(cost=dear), "cost() says 1.1"),
}


@pytest.mark.parametrize("check, members, message", [(check.split()[0], *wrong) for check, wrong in WRONG.items()])
def test_each_check_can_fail(check, members, message):
    with pytest.raises(AssertionError) as error:
        conformance.run(check, conformance.case(wrong(**{"name": "wrong", **members})))
    assert message in str(error.value)


def test_the_whole_table_names_what_failed_and_what_was_skipped(monkeypatch):
    some = {name: conformance.CHECKS[name] for name in ("fields", "init", "rules", "leak", "cost")}
    monkeypatch.setattr(conformance, "CHECKS", some)
    mine = wrong(name="mine", cost=lambda self: None, loss=leaky_loss)
    with pytest.raises(AssertionError) as error:
        conformance.check(mine)
    lines = dict(line.split(maxsplit=1) for line in str(error.value).splitlines()[1:-1])
    assert set(lines) == set(conformance.CHECKS) and lines.pop("leak").startswith("FAILED: hidden pixels")
    assert lines.pop("cost") == "skipped: no formula" and set(lines.values()) == {"passed"}
    table = conformance.check(mine, exempt={"leak": "mine to test"})
    assert table.results["leak"] == "skipped: mine to test" and not table.failed
    with pytest.raises(UserError, match="no check 'leaks'. Did you mean 'leak'"):
        conformance.check(mine, exempt=["leaks"])
