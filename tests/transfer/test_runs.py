"""Whole fine-tuning runs: what they start from, write, resume and refuse; what changes nothing; recipes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import metrics, tiny, unlabelled

from mae_jax.commands.main import main
from mae_jax.config import differences
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import use_mesh
from mae_jax.schema import Transfer
from mae_jax.tokens import positions
from mae_jax.train import loop
from mae_jax.train.build import build
from mae_jax.train.checkpoint import restore_arrays
from mae_jax.train.feed import train_batches
from mae_jax.train.loop import train
from mae_jax.transfer import start, task
from mae_jax.transfer.plan import finetune_config, make_finetune
from mae_jax.transfer.recipes import RECIPES, filled, sections
from mae_jax.weights.opened import opened
from mae_jax.weights.store import Weights, open_weights, write

SHORT = (
    "transfer.steps=8", "transfer.batch=16", "transfer.average=0.5", "checkpoint.every=4", "eval.every=4",
    "log.every=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def weights():
    """A tiny MAE's weights, as if pretrained."""
    run = build(tiny())
    state = jax.device_get(run.init(("params", "stats")))
    return Weights(run.config.to_dict(), state["params"], state["stats"], info={"kind": "pretraining", "source": "w"})


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    return write(tmp_path_factory.mktemp("weights") / "tiny.safetensors", weights)


@pytest.fixture(scope="module")
def finished(file, tmp_path_factory):
    """A finished run of the verb."""
    out = tmp_path_factory.mktemp("runs") / "ft"
    assert main(["finetune", "--weights", str(file), "--out", str(out), *(f"--config.{o}" for o in SHORT)]) == 0
    return out


def test_a_run_writes_scores_and_a_classifier_that_gives_them_again(finished, weights):
    found = json.loads((finished / "results.json").read_text())
    assert {"top1", "top5", "loss", "average_top1", "best_top1", "best_step"} <= set(found)
    lines = [line for line in metrics(finished) if "val/top1" in line]
    assert [line["step"] for line in lines] == [4, 8] and lines[-1]["val/top1"] == pytest.approx(
        found["top1"], abs=1e-3
    )
    for source in (finished / task.MODEL, finished):  # a finished run is its model
        model = opened(source)
        assert model.weights.kind == "classifier" and len(model.weights.info["head"]["classes"]) == 10
        again = task.classify_protocol(model, model.run.open("train"), model.run.open("test"))
        assert again.accuracy == pytest.approx(found["top1"], abs=1e-3)
        assert again.details["loss"] == pytest.approx(found["loss"], rel=1e-4)
    assert "decoder" not in model.state["params"] and model.config.transfer == Transfer()
    image = {"image": jnp.zeros((8, 8, 8, 1))}
    assert model.run.method.encode(model.state["params"], model.rest, image).normed.shape == (8, 16, 16)
    other = opened(finished / task.AVERAGE).state["params"]["encoder"]["blocks"]["0"]["attn"]["qkv"]["kernel"]
    assert not np.allclose(other, weights.params["encoder"]["blocks"]["0"]["attn"]["qkv"]["kernel"])


def test_a_step_is_replayed_to_the_bit(finished, file, capsys):
    """The labels, the drop path and the mixing of the batch included, from the checkpoint before it."""
    assert main(["replay", str(finished), "6"]) == 0
    said = capsys.readouterr().out
    loss = next(line["loss"] for line in metrics(finished) if line["step"] == 6)
    assert f"loss {loss!r}" in said and "to the bit" in said and "from the checkpoint of step 4" in said
    assert main(["replay", str(finished), "2"]) == 2
    assert "give these weights as --weights" in capsys.readouterr().err
    assert main(["replay", str(finished), "2", "--weights", str(file)]) == 0
    assert "to the bit" in capsys.readouterr().out


def test_a_killed_run_goes_on_to_the_same_end(finished, weights, file, tmp_path, monkeypatch):
    save = loop.Loop.save

    def killed(self, step, state):
        save(self, step, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Loop, "save", killed)
    command = ["finetune", "--weights", str(file), "--out", str(tmp_path), *(f"--config.{o}" for o in SHORT)]
    with pytest.raises(KeyboardInterrupt):
        main(command)
    monkeypatch.undo()
    with pytest.raises(UserError, match="hold no encoder by itself"):
        open_weights(tmp_path)
    assert main(command) == 0
    found, expected = (tree.flatten(restore_arrays(out)) for out in (tmp_path, finished))
    assert int(found["step"]) == 8 and found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
    assert metrics(tmp_path) == metrics(finished)
    other = dataclasses.replace(weights, params=jax.tree.map(lambda x: x + 1, weights.params))
    with pytest.raises(UserError, match="transfer.init"):
        task.finetune(other, tmp_path, pretrained=weights.config, overrides=SHORT)


def test_devices_and_microbatches_change_nothing(weights):
    """With everything on that ties samples together: mixing, drop path."""
    strong = ["transfer.mixup=0.8", "transfer.cutmix=1.0", "transfer.drop_path=0.5", "transfer.erase=0.5"]
    config = finetune_config(weights.config, overrides=[*SHORT, *strong])

    def two_steps(devices, microbatches):
        now = dataclasses.replace(config, train=dataclasses.replace(config.train, microbatches=microbatches))
        run = build(now, jax.devices()[:devices], make_finetune(now))
        with use_mesh(run.mesh), train_batches(run, run.open("train"), 0) as batches:
            state = start.start(run, weights)
            for _ in range(2):
                state, found = run.step(state, {}, run.put(next(batches)))
        return jax.device_get((state["params"], found["loss"]))

    with jax.default_matmul_precision("highest"):
        (params, loss), *others = two_steps(1, 1), two_steps(8, 1), two_steps(1, 2)
    for other, its_loss in others:
        assert its_loss == pytest.approx(loss, rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-6), params, other)


def test_positions_start_from_the_fixed_table_at_any_size(weights):
    config = finetune_config(weights.config, overrides=["method.image_size=12"])
    run = task.build_finetune(config)
    state = start.start(run, weights)
    table = positions.with_prefix(positions.sincos(16, (4, 4)), 1)
    np.testing.assert_array_equal(
        state["params"]["encoder"]["pos_embed"][0], positions.interpolate(table, (4, 4), (6, 6), prefix=1)
    )
    kernel = ("encoder", "blocks", "1", "mlp", "fc1", "kernel")
    taken, given = state["params"], weights.params
    for key in kernel:
        taken, given = taken[key], given[key]
    np.testing.assert_array_equal(taken, given)
    scratch = start.start(run, None)
    assert (np.asarray(scratch["params"]["encoder"]["blocks"]["1"]["mlp"]["fc1"]["kernel"]) != given).any()
    with pytest.raises(UserError, match="do not fit the encoder in .*patch_embed/kernel: .4, 16."):
        start.start(task.build_finetune(finetune_config(weights.config, overrides=["method.patch=4"])), weights)


def test_published_recipes():
    """The sheet's table, and what becomes of it on ImageNet (paper's peak rates; 1,281,167 images)."""
    #         epochs, base, batch, decay, drop path
    sheet = {"mae_b": (100, 5e-4, 2e-3, 0.65, 0.1), "mae_l": (50, 1e-3, 4e-3, 0.75, 0.2),
             "mae_h": (50, 1e-3, 4e-3, 0.75, 0.3)}  # fmt: skip
    config = tiny()
    for name, (epochs, base, peak, decay, drop) in sheet.items():
        t = filled(Transfer(), name)
        found = sections(config, t, 1_281_167, large=False)
        optim, augment = found["optim"], found["augment"]
        assert (t.epochs, optim["learning_rate"], optim["layer_decay"], t.drop_path) == (epochs, base, decay, drop)
        assert base * t.batch / 256 == peak and found["train"]["steps"] == epochs * 1251 and optim["warmup"] == 5 * 1251
        assert (optim["b1"], optim["b2"], optim["weight_decay"], optim["end_rate"]) == (0.9, 0.999, 0.05, 1e-6)
        assert (augment["mixup"], augment["cutmix"], augment["erase"], t.smoothing) == (0.8, 1.0, 0.25, 0.1)
        assert augment["randaugment"] == "rand-m9-mstd0.5-inc1" and augment["crop_scale"] == (0.08, 1.0)
        assert found["eval"]["every"] == 1251 and augment["eval_crop"] == 0.875 and t.pool == "mean"
    assert sections(config, t, 1_281_167, large=True)["augment"]["eval_crop"] == 1.0
    for name in RECIPES:
        filled(Transfer(), name)


def test_keys_given_count_before_the_recipe_in_either_spelling(weights):
    a = finetune_config(
        weights.config, overrides=["transfer.learning_rate=1e-2", "transfer.batch=32", "transfer.epochs=3"]
    )
    b = finetune_config(
        weights.config, {"optim": {"learning_rate": 1e-2}, "transfer": {"epochs": 3.0}}, ["train.batch=32"]
    )
    assert a == b and a.optim.learning_rate == 1e-2 and a.train.steps == 3 * (1437 // 32) and a.transfer.steps is None
    assert a.augment.crop_scale == (0.6, 1.0) and a.method["positions"] == "learned"  # tiny keeps pretraining's crop
    assert finetune_config(weights.config, overrides=["method.positions=sincos"]).method["positions"] == "sincos"
    half = finetune_config(weights.config, {"transfer": {"recipe": "mae_b"}}, ["transfer.steps=200"])
    assert half.optim.warmup == 10 and half.transfer.recipe == "mae_b"
    pretraining = weights.config
    assert not differences(pretraining, pretraining | {"transfer": {"labels_per_class": 5}})
    assert differences(a.to_dict(), dataclasses.replace(a, transfer=Transfer(task="finetune")).to_dict())


def test_few_labels_are_balanced_nested_and_seeded(weights):
    def draw(count, seed=0):
        overrides = [f"transfer.labels_per_class={count}", f"transfer.labels_seed={seed}"]
        return task.build_finetune(finetune_config(weights.config, overrides=overrides)).open("train")

    five, ten, other = draw(5), draw(10), draw(5, 1)
    assert (np.bincount(five.labels) == 5).all() and (np.bincount(ten.labels) == 10).all() and len(five.classes) == 10
    assert set(five.numbers) < set(ten.numbers) and set(five.numbers) != set(other.numbers)
    with pytest.raises(UserError, match="labels_per_class=500, but the class '0' has only 14"):
        draw(500)


def test_what_cannot_be_is_said_in_one_paragraph(weights, file, tmp_path, capsys):
    def says(*argv):
        assert main(["finetune", "--out", str(tmp_path / "out"), *argv]) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert "which weights?" in says()
    assert "Did you mean 'mae_b'" in says("--weights", str(file), "--config.transfer.recipe=mae_bb")
    assert "nearest" not in says("--weights", str(tmp_path / "none.pth"))
    assert "--step chooses" in says("--weights", str(file), "--step", "3")
    config = finetune_config(weights.config)
    with pytest.raises(UserError, match="use it with `mae_jax finetune`"):
        train(config, tmp_path / "x")
    data = unlabelled(tmp_path / "plain.npz")
    with pytest.raises(UserError, match="a class for each record"):
        finetune_config(weights.config, {"data": data})
    with pytest.raises(UserError, match="weights are of 'mae'"):
        finetune_config(weights.config, {"method": {"name": "lut"}})
    with pytest.raises(UserError, match="have no head"):
        source = task.build_finetune(config).open("test")
        task.classify_protocol(opened(file), source, source)
