"""Fine-tuning as a method: the published classifier, what of a method is trained, drop path, mixing, decay."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_methods import TINY, make

from mae_jax import methods
from mae_jax.augment import mixup
from mae_jax.augment.normalise import normalise
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.interop.golden import read
from mae_jax.interop.mae import classifier_rules
from mae_jax.interop.names import export_weights, import_weights
from mae_jax.interop.parity import gradient_norms
from mae_jax.methods.mae import MAE
from mae_jax.nets.compute import Compute
from mae_jax.nets.vit import Classifier
from mae_jax.schema import Optim
from mae_jax.train.build import sample_batch
from mae_jax.train.optimizers import FINETUNE_DECAY, decay_multipliers, layer_scales, make_optimizer
from mae_jax.train.schedules import learning_rate
from mae_jax.train.state import init_state
from mae_jax.train.step import make_step
from mae_jax.transfer.finetune import FineTune
from mae_jax.transfer.reach import reach, used_inputs

GOLDEN = Path(__file__).parents[1] / "golden"
REST = {"stats": {}, "ema": {}, "frozen": {}}
# What no parameter of the encoder's answers to: {method: why}.
NO_DROP_PATH = {"graphmae": "its layers drop features and edges by rates of the method's own"}


def classifier(name, **options):
    method = methods.get(name)(**TINY[name])
    return FineTune(inner=method, classes=3, compute=method.compute, **options)


@pytest.mark.parametrize("pool, file", [("mean", "classifier_gap"), ("class", "classifier_cls")])
def test_the_authors_classifier(pool, file):
    """Features, logits, loss and every gradient of facebookresearch/mae's classifier, through `encode` alone."""
    golden = read(GOLDEN / "mae" / f"{file}.npz")
    c = golden.config
    inner = MAE(
        image_size=c["img_size"], patch=c["patch_size"], channels=c["in_chans"], dim=c["embed_dim"], depth=c["depth"],
        heads=c["num_heads"], decoder_dim=4, decoder_depth=1, decoder_heads=1, positions="learned",
    )  # fmt: skip
    method = FineTune(inner=inner, classes=c["num_classes"], pool=pool)
    method.check()
    image = jnp.asarray(golden.channels_last("imgs", (c["img_size"], c["img_size"], c["in_chans"])))
    batch = {"image": image, "label": jnp.asarray(golden.input("labels"))}
    template, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    rules = classifier_rules(c["in_chans"], (c["patch_size"],) * 2)
    params, _ = import_weights(rules, golden.weights, template)
    net = Classifier(inner.encoder.shape, c["num_classes"], (c["img_size"],) * 2, (c["patch_size"],) * 2, pool=pool)
    wanted = tree.flatten(jax.eval_shape(net.init, jax.random.key(0), image)["params"])
    assert {p: s.shape for p, s in tree.flatten(template).items()} == {p: s.shape for p, s in wanted.items()}

    def loss(params):
        value, aux = method.loss(params, REST, batch, Context(jax.random.key(0), train=False))
        return value, aux.seen

    with jax.default_matmul_precision("highest"):
        (value, seen), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    found = {"loss": value, "logits": seen["logits"], "features": seen["features"], **gradient_norms(rules, grads)}
    assert set(golden.outputs) <= set(found)
    for name, reference in golden.outputs.items():
        np.testing.assert_allclose(found[name], reference, rtol=1e-4, atol=1e-5, err_msg=name)
    scales = layer_scales(template, golden.meta.get("layer_decay", 0.75))
    np.testing.assert_allclose(sorted(scales.values()), sorted(golden.meta["lr_scale"].values()), rtol=1e-6)
    assert set(decay_multipliers(template, FINETUNE_DECAY).values()) == {0.0, 1.0}


@pytest.mark.parametrize("name", methods.names())
def test_every_method_becomes_a_classifier(name):
    """What reaches the head, all of it and nothing else, gets gradient."""
    inner, params, rest, batch = make(name)
    method = dataclasses.replace(classifier(name, pool="mean"), inner=inner)
    method.check()
    found = method.reach
    assert found.params and found.params < set(tree.flatten(found.all_params)) and not found.ema
    b = len(next(iter(batch.values())))
    batch = {k: x for k, x in batch.items() if k in method.batch_spec} | {"label": jnp.arange(b) % 3}
    assert set(batch) == set(method.batch_spec)
    own, stats = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))
    flat = tree.flatten(params)
    values = tree.unflatten({
        p: flat[p] if p in flat and p in found.params else 0.1 * jax.random.normal(jax.random.key(3), s.shape) + 0.5
        for p, s in tree.flatten(own).items()
    })  # fmt: skip
    assert set(tree.flatten(own)) - found.params == {"fc_norm/scale", "fc_norm/bias", "head/kernel", "head/bias"}
    rest = {**rest, "stats": jax.tree.map(lambda s: jnp.ones(s.shape), stats)}

    def loss(p):
        return method.loss(p, rest, batch, Context(jax.random.key(1), 2))

    grads, aux = jax.jit(jax.grad(loss, has_aux=True))(values)
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    assert set(tree.flatten(aux.stats)) == set(tree.flatten(stats))


@pytest.mark.parametrize("name", methods.names())
def test_drop_path_changes_encode_in_training_alone(name):
    method, params, rest, batch = make(name)
    dropping = dataclasses.replace(method, compute=Compute(drop_path=0.9))

    def tokens(method, step, train):
        return method.encode(params, rest, batch, ctx=Context(jax.random.key(0), step), train=train).tokens

    run = jax.jit(tokens, static_argnums=(0, 2))
    np.testing.assert_array_equal(run(dropping, 0, False), run(method, 0, False))
    if name in NO_DROP_PATH:
        pytest.skip(NO_DROP_PATH[name])
    assert not np.allclose(run(dropping, 0, True), run(method, 0, True))
    assert not np.allclose(run(dropping, 0, True), run(dropping, 1, True))


def test_used_inputs_looks_into_calls():
    def f(a, b, c):
        x, _ = jax.jit(lambda a, b: (a + 1, b))(a, b)
        return jax.checkpoint(lambda x, c: x)(x, c)

    jaxpr = jax.make_jaxpr(f)(1.0, 2.0, 3.0).jaxpr
    assert used_inputs(jaxpr, [True]) == [True, False, False] and used_inputs(jaxpr, [False]) == [False] * 3
    method = methods.get("mae")(**TINY["mae"])
    with_norm = reach(method, normed).params
    assert {"encoder/norm/scale", "encoder/norm/bias"} == with_norm - classifier("mae").reach.params


def normed(features):
    return features.normed


def test_targets_of_a_mixed_batch():
    """Cross entropy against smoothed labels of both images, by hand."""
    method = classifier("mae", smoothing=0.1)
    b = 4
    batch = {"image": make("mae")[3]["image"], "label": jnp.array([0, 1, 2, 1]),
             "label_partner": jnp.array([1, 2, 1, 0]), "label_share": jnp.array([0.3, 1.0, 0.5, 0.3])}  # fmt: skip
    params, _ = jax.jit(method.init)(jax.random.key(0), batch)
    params["head"]["kernel"] = jax.random.normal(jax.random.key(1), params["head"]["kernel"].shape)
    value, aux = jax.jit(lambda p: method.loss(p, REST, batch, Context(jax.random.key(0))))(params)
    logits = np.asarray(aux.seen["logits"], np.float64)
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = 0.0
    for i in range(b):
        target = np.full(3, 0.1 / 3)
        share = float(batch["label_share"][i])
        target[int(batch["label"][i])] += 0.9 * share
        target[int(batch["label_partner"][i])] += 0.9 * (1 - share)
        expected -= (target * logp[i]).sum() / b
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert "train_top1" not in aux.metrics
    reverse = mixup.soft_targets(batch["label"], 3, 0.1, jnp.float32(0.3))
    np.testing.assert_allclose(
        mixup.soft_targets(batch["label"], 3, 0.1, jnp.full(4, 0.3), batch["label"][::-1]), reverse, rtol=1e-6
    )


def test_what_cannot_be_fine_tuned_is_refused():
    with pytest.raises(UserError, match="at least 2"):
        dataclasses.replace(classifier("mae"), classes=1).check()
    with pytest.raises(UserError, match="this encoder has none"):
        classifier("spark", pool="class").check()


def test_ten_steps_are_torchs():
    """Loss, rate, gradient and weights of the plain torch loop (tests/reference/finetune_torch.py)."""
    golden = read(GOLDEN / "mae_finetune10.npz")
    c, r = golden.config, golden.config["recipe"]
    inner = MAE(
        image_size=c["img_size"], patch=c["patch_size"], channels=c["in_chans"], dim=c["embed_dim"], depth=c["depth"],
        heads=c["num_heads"], decoder_dim=4, decoder_depth=1, decoder_heads=1, positions="learned",
    )  # fmt: skip
    method = FineTune(inner=inner, classes=c["num_classes"], smoothing=r["smoothing"])
    rules = classifier_rules(c["in_chans"], (c["patch_size"],) * 2)
    sample = sample_batch(method, r["batch"])
    template, _ = jax.eval_shape(method.init, jax.random.key(0), sample)
    params, _ = import_weights(rules, golden.weights, template)
    optim = Optim(
        learning_rate=r["learning_rate"], scaling="none", warmup=r["warmup_steps"], end_rate=r["min_learning_rate"],
        b1=r["beta1"], b2=r["beta2"], eps=r["eps"], weight_decay=r["weight_decay"], decay_rules=FINETUNE_DECAY,
        layer_decay=r["layer_decay"],
    )  # fmt: skip

    def augment(batch, ctx):
        image = mixup.mixup(normalise(batch["image"], (r["mean"],), (r["std"],)), batch["share"][0])
        return {"image": image, "label": batch["label"], "label_partner": batch["label"][::-1],
                "label_share": batch["share"]}  # fmt: skip

    optimizer, rate = make_optimizer(optim, params), learning_rate(optim, r["batch"], r["steps"])
    step = jax.jit(make_step(method, optimizer, rate, augment, seed=0))
    state = init_state(method, optimizer, jax.random.key(0), sample)
    state |= {"params": jax.tree.map(jnp.asarray, params)}
    history = []
    with jax.default_matmul_precision("highest"):
        for i in range(r["steps"]):
            image = jnp.asarray(golden.inputs["imgs"][i]).transpose(0, 2, 3, 1)
            share = jnp.full(r["batch"], golden.inputs["shares"][i])
            label = jnp.asarray(golden.inputs["labels"][i], jnp.int32)
            state, metrics = step(state, {}, {"image": image, "label": label, "share": share})
            history.append(metrics)
    out = golden.outputs
    for ours, theirs in (("loss", "loss"), ("lr", "lr"), ("grad_norm", "gradient_norm")):
        np.testing.assert_allclose([m[ours] for m in history], out[theirs], rtol=1e-5, atol=1e-9, err_msg=ours)
    for name, tensor in export_weights(rules, state["params"]).items():
        start = golden.weights[name].astype(np.float64)
        if not name.endswith("qkv.bias"):  # the keys' gradient is rounding noise, which Adam may amplify
            np.testing.assert_allclose(np.linalg.norm(tensor - start), out[f"moved/{name}"], rtol=1e-3, err_msg=name)
        if f"final/{name}" in out:
            np.testing.assert_allclose(tensor, out[f"final/{name}"], atol=2e-5, err_msg=name)
