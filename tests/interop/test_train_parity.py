"""Twenty of our training steps against twenty of the plain torch loop (tests/reference/mae_torch.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import GOLDEN

from mae_jax.augment.normalise import normalise
from mae_jax.interop.golden import read
from mae_jax.interop.mae import pretraining_method, pretraining_rules
from mae_jax.interop.names import export_weights, import_weights
from mae_jax.train.optimizers import adamw, decay_multipliers
from mae_jax.train.schedules import warmup_cosine
from mae_jax.train.state import init_state
from mae_jax.train.step import make_step


@pytest.fixture(scope="module")
def golden():
    return read(GOLDEN / "mae_train20.npz")


def train(golden):
    """Our train step on the golden's weights, batches and noise -> (metrics per step, final weights)."""
    config = dict(golden.config)
    recipe = config.pop("recipe")
    method = pretraining_method(config)
    rules = pretraining_rules(method)
    image = jnp.asarray(golden.inputs["imgs"]).transpose(0, 1, 3, 4, 2)
    template, _ = jax.eval_shape(lambda x: method.init(jax.random.key(0), {"image": x}), image[0].astype(jnp.float32))
    params, _ = import_weights(rules, golden.weights, template)
    multipliers = decay_multipliers(params)
    optimizer = adamw(recipe["beta1"], recipe["beta2"], recipe["eps"], recipe["weight_decay"], multipliers)
    names = ("learning_rate", "warmup_steps", "steps", "min_learning_rate")
    rate = warmup_cosine(*(float(recipe[name]) for name in names))

    def augment(batch, ctx):
        return batch | {"image": normalise(batch["image"], (recipe["mean"],), (recipe["std"],))}

    step = jax.jit(make_step(method, optimizer, rate, augment, seed=0))
    state = init_state(method, optimizer, jax.random.key(0), {"image": image[0].astype(jnp.float32)})
    state |= {"params": jax.tree.map(jnp.asarray, params), "opt": optimizer.init(params)}
    history = []
    for i in range(recipe["steps"]):
        given = {"mask": jnp.asarray(golden.inputs["noise"][i])}
        state, metrics = step(state, {}, {"image": image[i]}, given=given)
        history.append(metrics)
    return {name: np.array([m[name] for m in history]) for name in history[0]}, export_weights(rules, state["params"])


def test_twenty_steps_are_torchs(golden):
    with jax.default_matmul_precision("highest"):
        metrics, final = train(golden)
    out = golden.outputs
    np.testing.assert_allclose(metrics["loss"], out["loss"], rtol=2e-6)
    np.testing.assert_allclose(metrics["lr"], out["lr"], rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(metrics["grad_norm"], out["gradient_norm"], rtol=1e-5)
    assert set(final) == set(golden.weights)
    for name, tensor in final.items():
        tensor, start = tensor.astype(np.float64), golden.weights[name].astype(np.float64)
        # A bias of the keys cancels in the softmax: its gradient is rounding noise, which Adam may amplify.
        noisy = name.endswith("qkv.bias")
        np.testing.assert_allclose(
            np.linalg.norm(tensor), out[f"norm/{name}"], rtol=1e-2 if noisy else 1e-5, err_msg=name
        )
        if not noisy:
            np.testing.assert_allclose(np.linalg.norm(tensor - start), out[f"moved/{name}"], rtol=1e-4, err_msg=name)
        if f"final/{name}" in out:
            np.testing.assert_allclose(tensor, out[f"final/{name}"], atol=1e-5, err_msg=name)
