"""`mae_jax convert` and what starts from its files: runs out, files in, refusals by name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import published_files as made
import pytest
from tiny_methods import TINY
from tiny_runs import tiny

from mae_jax import methods
from mae_jax.commands.main import main
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.eval.pictures import save_png
from mae_jax.train.build import build, sample_batch
from mae_jax.train.checkpoint import Checkpoints
from mae_jax.train.warm_start import warm_start
from mae_jax.weights import store
from mae_jax.weights.export import export
from mae_jax.weights.layout import PLAIN, averaged, encoder_alone
from mae_jax.weights.store import Weights, open_weights
from mae_jax.weights.video_layout import VIDEO

# The digits of tiny_runs: 8 x 8 x 1, patch 2, dim 16, two heads.
SMALL = ("--heads", "2", "--decoder-heads", "2")


def run(capsys, *argv):
    status = main([str(a) for a in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def equal(a, b):
    a, b = tree.flatten(a), tree.flatten(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """What two steps of training, with an average, leave behind."""
    path, config = tmp_path_factory.mktemp("run") / "digits", tiny("optim.average=0.5")
    state = jax.device_get(build(config).init())
    moved = jax.tree.map(lambda p: p + np.float32(0.5), state["params"])
    state |= {"params": moved, "step": np.int32(2)}
    plain = json.loads(json.dumps(config.to_dict()))
    with Checkpoints(path) as checkpoints:
        checkpoints.save(2, jax.tree.map(jnp.asarray, state), data={}, config=plain)
    (path / "config.json").write_text(json.dumps(plain))
    (path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
    return path


@pytest.fixture(scope="module")
def native(workdir, tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / "digits.safetensors"
    assert main(["convert", str(workdir), str(path)]) == 0
    return path


def test_a_run_and_back(workdir, native):
    first, second = open_weights(workdir), open_weights(native)
    for part in ("params", "ema"):
        equal(getattr(first, part), getattr(second, part))
    assert second.info["step"] == 2 and second.config["data"]["source"] == "digits"
    equal(averaged(second).params, second.ema["average"])


@pytest.mark.parametrize("to, names", [("hf", {"config.json", "preprocessor_config.json"}), ("timm", {"config.json"}),
                                       ("safetensors", {"config.json"})])  # fmt: skip
def test_folders_have_a_card_that_says_where_from(to, names, workdir, tmp_path, capsys):
    status, out, _ = run(capsys, "convert", workdir, tmp_path / "out", "--to", to)
    assert status == 0 and f"written to {tmp_path / 'out'}" in out and "yours" in out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.safetensors", "README.md", *names}
    card = (tmp_path / "out" / "README.md").read_text()
    last = (workdir / "metrics.jsonl").read_text().splitlines()[-1]
    for part in (str(workdir), "step 2", "`digits`", last, "learning_rate", "Licence", "mae_jax 0."):
        assert part in card, part
    hints = () if to == "safetensors" else SMALL[:2] if to == "timm" else ()
    status, out, _ = run(capsys, "convert", tmp_path / "out", tmp_path / "again.safetensors", *hints)
    assert status == 0, out
    found, expected = open_weights(tmp_path / "again.safetensors").params, open_weights(workdir).params
    equal(found, {"encoder": expected["encoder"]} if to == "timm" else expected)


def test_the_official_names(workdir, tmp_path, capsys):
    assert run(capsys, "convert", workdir, tmp_path / "o.safetensors", "--to", "mae")[0] == 0
    w = open_weights(tmp_path / "o.safetensors", hints=made_hints())
    equal(w.params, open_weights(workdir).params)
    from safetensors.numpy import load_file

    sheet = made.official_names(decoder=True)
    assert load_file(tmp_path / "o.safetensors").keys() == sheet.keys() | {"pos_embed", "decoder_pos_embed"}


def made_hints():
    from mae_jax.weights.hints import Hints

    return Hints(heads=2, decoder_heads=2)


def test_what_exists_is_not_replaced_unless_one_says_so(native, tmp_path, capsys):
    target = tmp_path / "x.safetensors"
    target.write_text("mine")
    status, _, err = run(capsys, "convert", native, target)
    assert status == 2 and "exists" in err and target.read_text() == "mine"
    assert run(capsys, "convert", native, target, "--overwrite")[0] == 0
    for _ in range(2):
        assert run(capsys, "convert", native, tmp_path / "d", "--to", "timm", "--overwrite")[0] == 0


@pytest.mark.parametrize("argv, message", [
    (("x.pth",), "does not end in .safetensors"),
    (("x.safetensors", "--to", "hf"), "writes a folder"),
    (("x", "--to", "pytorch"), "none of native"),
    (("x.safetensors", "--heads", "3"), "says itself what --heads"),
    (("x.safetensors", "--norm-pix", "yes"), "norm_pix=False, and you say True"),
])  # fmt: skip
def test_refusals(argv, message, native, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, "convert", native, *argv)
    assert status == 2 and message in err and not list(tmp_path.iterdir())


def test_a_head_on_the_mean_is_not_hugging_faces(tmp_path, capsys):
    path = made.write(tmp_path / "f.safetensors", made.official(head=3, fc_norm=True, learned=True))
    status, _, err = run(capsys, "convert", path, tmp_path / "x", "--to", "hf", *SMALL)
    assert status == 2 and "reads the class token" in err
    assert run(capsys, "convert", path, tmp_path / "x", "--to", "hf", "--as", "encoder", *SMALL)[0] == 0
    assert json.loads((tmp_path / "x" / "config.json").read_text())["architectures"] == ["ViTModel"]


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_methods_weights_are_written_and_read_back(name, tmp_path):
    method = methods.get(name)(**TINY[name])
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))
    params, stats = jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes)
    config = {"method": {"name": name} | TINY[name], "augment": {"mean": (0.5,), "std": (0.5,)}}
    w = Weights(config, params, stats, info={"kind": "pretraining"})
    found = store.read(store.write(tmp_path / "w.safetensors", w))
    for part in ("params", "stats"):
        equal(getattr(found, part), getattr(w, part))
    for to in ("hf", "timm", "mae"):
        out = tmp_path / (f"{to}.safetensors" if to == "mae" else to)
        if name not in PLAIN and not (to == "hf" and name in VIDEO):  # test_videomae_weights.py
            with pytest.raises(UserError, match=f"the encoder of '{name}' is none: "):
                export(w, out, to)
    if name in PLAIN:
        full = config["method"] | {key: getattr(method, key) for key in ("mlp_ratio", "norm_eps")}
        w = encoder_alone(Weights(config | {"method": full}, params, info=w.info))
        left_out = export(w, tmp_path / "t", "timm")
        assert not left_out and (tmp_path / "t" / "model.safetensors").is_file()


# train.init -----------------------------------------------------------------------------------------------------------


def test_training_starts_from_a_file(native, capsys):
    expected = open_weights(native)
    state = jax.device_get(warm_start(build(tiny("train.seed=5")), str(native)))
    equal(state["params"], expected.params)
    assert "fresh" not in capsys.readouterr().err


def test_an_encoder_alone_starts_the_encoder(native, tmp_path, capsys):
    w = open_weights(native)
    path = store.write(tmp_path / "e.safetensors", encoder_alone(w))
    config = build(tiny("train.seed=5"))
    state, fresh = jax.device_get((warm_start(config, str(path)), config.init()))
    equal(state["params"]["encoder"], w.params["encoder"])
    equal(state["params"]["decoder"], fresh["params"]["decoder"])
    assert capsys.readouterr().err == f"train.init: encoder from {path}; decoder fresh\n"
    other = build(tiny("method.positions=learned", "method.image_size=12"))  # learned, from the fixed table
    state = jax.device_get(warm_start(other, str(path)))
    from mae_jax.tokens.positions import interpolate, sincos, with_prefix

    table = interpolate(with_prefix(sincos(16, (4, 4)), 1)[None], (4, 4), (6, 6), prefix=1)  # as fine-tuning does
    np.testing.assert_array_equal(state["params"]["encoder"]["pos_embed"], table)


@pytest.mark.parametrize("overrides, message", [
    (("method.heads=4",), "method.heads=4 here and 2 there"),
    (("method.dim=24",), "do not fit this config"),
    (("method.depth=3",), "lacks encoder/blocks/2"),
])  # fmt: skip
def test_weights_of_another_network_start_nothing(overrides, message, native, tmp_path):
    path = store.write(tmp_path / "e.safetensors", encoder_alone(open_weights(native)))
    with pytest.raises(UserError, match=message):
        warm_start(build(tiny(*overrides)), str(path))


def test_learned_positions_need_a_method_that_has_them(tmp_path):
    path = made.write(tmp_path / "a.safetensors", made.official(learned=True))
    w = open_weights(path, hints=made_hints())
    native = store.write(tmp_path / "n.safetensors", w)
    config = tiny("method.channels=3", "method.patch=4", "method.image_size=12", "augment.mean=(.5,.5,.5)",
                  "augment.std=(.5,.5,.5)")  # fmt: skip
    with pytest.raises(UserError, match="set method.positions='learned'"):
        warm_start(build(config), str(native))


# reconstruct ----------------------------------------------------------------------------------------------------------


def test_reconstruct_by_a_file_alone(native, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_png(tmp_path / "i.png", np.random.default_rng(0).integers(0, 255, (9, 9, 3)).astype(np.uint8))
    status, out, err = run(capsys, "reconstruct", "--weights", native, "i.png")
    assert status == 0 and (tmp_path / "reconstruction.png").is_file() and "by " in out, err
    store.write(tmp_path / "e.safetensors", encoder_alone(open_weights(native)))
    status, _, err = run(capsys, "reconstruct", "--weights", "e.safetensors", "i.png")
    assert status == 2 and "reconstruct needs the decoder" in err
    published = made.write(tmp_path / "p.safetensors", made.official(decoder=True))
    assert run(capsys, "convert", published, "q.safetensors", *SMALL)[0] == 0
    status, _, err = run(capsys, "reconstruct", "--weights", "q.safetensors", "i.png")
    assert status == 2 and "does not say whether its decoder predicts raw pixels" in err
    status, _, err = run(capsys, "reconstruct", "--weights", "q.safetensors")
    assert status == 2
