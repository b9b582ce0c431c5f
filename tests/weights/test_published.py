"""Published files: every family is recognised, every tensor accounted for, and what they are good for is said."""

import json
import re

import numpy as np
import published_files as made
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.interop.vit_layouts import moco_sincos, order_of
from mae_jax.tokens.positions import sincos
from mae_jax.weights import catalog, store
from mae_jax.weights.export import export
from mae_jax.weights.hints import Hints
from mae_jax.weights.opened import opened
from mae_jax.weights.store import open_weights
from mae_jax.weights.uses import check_use, describe

HINTS = Hints(**made.HINTS)


def read(path, **hints):
    return open_weights(path, hints=Hints(**made.HINTS | hints))


def test_an_encoder_alone(tmp_path):
    tensors = made.official()
    w = read(made.write(tmp_path / "e.safetensors", tensors))
    assert w.kind == "encoder" and set(w.params) == {"encoder"} and w.head is None
    method = w.config["method"]
    assert {key: method[key] for key in ("dim", "depth", "patch", "image_size", "heads", "positions")} == {
        "dim": 16, "depth": 2, "patch": 4, "image_size": 12, "heads": 2, "positions": "sincos"}  # fmt: skip
    np.testing.assert_array_equal(
        w.params["encoder"]["blocks"]["1"]["attn"]["qkv"]["kernel"], tensors["blocks.1.attn.qkv.weight"].T
    )
    assert "not for    reconstruct" in describe(w) and "licence    unknown" in describe(w)
    with pytest.raises(UserError, match=r"the encoder alone.*Take mae_visualize_vit_base.pth \(raw pixels\)"):
        check_use(w, "reconstruct")
    with pytest.raises(UserError, match="no classifier"):
        check_use(w, "classify")


def test_a_decoder_that_does_not_say_its_pixels(tmp_path):
    path = made.write(tmp_path / "full.safetensors", made.official(decoder=True))
    w = read(path)
    assert w.kind == "pretraining" and w.info["norm_pix"] is None and "UNKNOWN" in describe(w)
    with pytest.raises(UserError, match="norm_pix=True .*or False"):
        check_use(w, "reconstruct")
    assert read(path, norm_pix=True).config["method"]["norm_pix"] is True
    native = store.write(tmp_path / "n.safetensors", w)
    o = opened(native, ["method.norm_pix=True"])
    check_use(o.weights, "reconstruct")
    assert o.run.method.norm_pix
    told = open_weights(native, hints=Hints(norm_pix=False))
    assert told.info["norm_pix"] is False
    with pytest.raises(UserError, match="leave that out"):
        open_weights(native, hints=Hints(heads=4))


def test_fine_tuned(tmp_path):
    tensors = made.official(head=5, fc_norm=True, learned=True)
    w = read(made.write(tmp_path / "f.safetensors", tensors))
    assert w.kind == "classifier" and w.info["head"] == {"pool": "mean", "count": 5, "classes": []}
    np.testing.assert_array_equal(w.params["encoder"]["pos_embed"], tensors["pos_embed"])
    np.testing.assert_array_equal(w.params["encoder"]["norm"]["scale"], 1)  # there is none: the identity
    np.testing.assert_array_equal(w.head["params"]["fc_norm"]["scale"], tensors["fc_norm.weight"])


@pytest.mark.parametrize("kind", [{}, {"decoder": True}, {"head": 5, "fc_norm": True, "learned": True},
                                  {"head": 5, "learned": True}])  # fmt: skip
def test_the_way_back_is_bit_exact(kind, tmp_path):
    tensors = made.official(**kind)
    w = read(made.write(tmp_path / "a.safetensors", tensors))
    w = store.read(store.write(tmp_path / "n.safetensors", w))
    export(w, tmp_path / "b.safetensors", "mae")
    same_bits(tmp_path / "b.safetensors", tensors)


def same_bits(path, tensors):
    from safetensors.numpy import load_file

    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        assert found[name].dtype == x.dtype and found[name].tobytes() == np.ascontiguousarray(x).tobytes(), name


def test_a_table_that_differs_in_its_last_bits_goes_out_as_it_came(tmp_path):
    tensors = made.official(decoder=True)
    for name in ("pos_embed", "decoder_pos_embed"):
        tensors[name] = np.nextafter(tensors[name], np.float32(2))
    w = read(made.write(tmp_path / "a.safetensors", tensors))
    assert w.config["method"]["positions"] == "sincos" and set(w.extra) == {"encoder", "decoder"}
    w = store.read(store.write(tmp_path / "n.safetensors", w))
    export(w, tmp_path / "b.safetensors", "mae")
    same_bits(tmp_path / "b.safetensors", tensors)


def test_orders_of_positions(tmp_path):
    grid = (made.GRID, made.GRID)
    assert order_of(made.table(16), grid, 1) == "column"
    tensors = made.official()
    tensors["pos_embed"][0, 1:] = sincos(made.DIM, grid, first="row")
    w = read(made.write(tmp_path / "row.safetensors", tensors))
    assert w.info["positions"] == "row" and w.config["method"]["positions"] == "learned"
    np.testing.assert_array_equal(w.params["encoder"]["pos_embed"], tensors["pos_embed"])
    # big_vision, at token (row 1, column 2) of a grid of three columns: sines and cosines of the column, of the row.
    omega = np.array([1, 1e-4 ** (1 / 3), 1e-4 ** (2 / 3), 1e-4])
    expected = np.concatenate([np.sin(2 * omega), np.cos(2 * omega), np.sin(omega), np.cos(omega)])
    np.testing.assert_allclose(moco_sincos(16, grid)[5], expected, atol=1e-6)
    assert order_of(moco_sincos(16, grid)[None], grid, 0) == "moco"
    assert order_of(np.ones((1, 10, 16), np.float32), grid, 1) == "none"


def test_a_decoder_with_other_positions_is_refused(tmp_path):
    tensors = made.official(decoder=True)
    tensors["decoder_pos_embed"][0, 1:] = sincos(made.DECODER_DIM, (3, 3), first="row")
    path = made.write(tmp_path / "a.safetensors", tensors)
    with pytest.raises(UserError, match="another one, and ours adds"):
        read(path)
    w = read(path, encoder_only=True)
    assert w.kind == "encoder" and "decoder and head" in w.info["left_out"]


def test_each_tensor_that_does_not_fit_is_named(tmp_path):
    tensors = made.official()
    tensors["extra.weight"] = np.zeros(3, np.float32)
    del tensors["blocks.1.mlp.fc2.bias"]
    tensors["norm.bias"] = np.zeros(4, np.float32)
    with pytest.raises(UserError) as error:
        read(made.write(tmp_path / "a.safetensors", tensors))
    for part in ("3 mismatches", "extra.weight", "blocks/1/mlp/fc2/bias", "norm.bias"):
        assert part in str(error.value)


@pytest.mark.parametrize("change, message", [
    (lambda t: t | {"blocks.0.ls1.gamma": np.ones(16, np.float32)}, "layer scale"),
    (lambda t: t | {"reg_token": np.ones((1, 4, 16), np.float32)}, "register tokens"),
    (lambda t: {"conv1.weight": np.ones((3, 3), np.float32)}, "no family of ViTs"),
    (lambda t: t | {"norm.weight": np.full(16, np.nan, np.float32)}, "not finite"),
    (lambda t: {k: v for k, v in t.items() if k != "pos_embed"}, "lacks pos_embed"),
    (lambda t: t | {"pos_embed": np.ones((1, 8, 16), np.float32)}, "no square"),
])  # fmt: skip
def test_what_is_no_plain_vit_is_refused_by_name(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(made.write(tmp_path / "a.safetensors", change(made.official())))


def test_heads_are_known_by_width_or_asked_for(tmp_path):
    path = made.write(tmp_path / "a.safetensors", made.official())
    with pytest.raises(UserError, match="--heads N"):
        open_weights(path)
    with pytest.raises(UserError, match="--heads 3 does not divide"):
        open_weights(path, hints=Hints(heads=3))
    known = {768: 12, 1024: 16, 1280: 16}
    assert {dim: Hints().heads_of(dim) for dim in known} == known and Hints().heads_of(512, "decoder_") == 16


def test_not_square(tmp_path):
    tensors = made.official()
    tensors["pos_embed"] = made.random_tensors({"p": (1, 1 + 8, made.DIM)})["p"]
    w = read(made.write(tmp_path / "a.safetensors", tensors), image_size=(8, 16))
    assert w.config["method"]["image_size"] == (8, 16)


# The catalogue --------------------------------------------------------------------------------------------------------


@pytest.fixture
def entry(monkeypatch, tmp_path):
    """A catalogue of one tiny encoder with a known MD5, one without."""
    import hashlib

    path = made.write(tmp_path / "mae_pretrain_tiny.safetensors", made.official())
    md5 = hashlib.md5(path.read_bytes()).hexdigest()[:6]
    shape = (made.DIM, made.DEPTH, made.PATCH)
    one = catalog.Entry("mae_tiny", path.name, "https://example.org/x", "CC-BY-NC 4.0", "encoder", None, *shape, md5)
    full = catalog.Entry("mae_tiny_full", "full.safetensors", "https://example.org/y", "CC-BY-NC 4.0", "pretraining",
                         True, *shape)  # fmt: skip
    monkeypatch.setattr(catalog, "CATALOG", {"mae_tiny": one, "mae_tiny_full": full})
    catalog._said.clear()
    return path


def test_a_published_file_is_known_and_its_licence_said_once(entry, capfd):
    for _ in range(2):
        w = read(entry)
    assert w.info["published"] == "mae_tiny" and w.info["licence"] == "CC-BY-NC 4.0"
    assert capfd.readouterr().err == "mae_tiny: licence CC-BY-NC 4.0\n"
    renamed = entry.rename(entry.with_name("other.safetensors"))
    assert read(renamed).info["published"] == "mae_tiny"
    assert open_weights("mae_tiny", file=str(renamed), hints=HINTS).info["published"] == "mae_tiny"


def test_another_file_under_a_published_name_is_refused(entry, tmp_path):
    tensors = made.official()
    tensors["norm.bias"][0] += 1
    made.write(entry, tensors)
    with pytest.raises(UserError, match="is not mae_tiny: its MD5 is .*or damaged"):
        read(entry)
    assert read(entry, name="none").info["published"] is None
    good = made.write(tmp_path / "full.safetensors", made.official())
    with pytest.raises(UserError, match="it is mae_pretrain_tiny.safetensors"):
        open_weights("mae_tiny_full", file=str(good), hints=HINTS)


def test_one_published_name_is_not_another(entry, tmp_path):
    path = made.write(tmp_path / "full.safetensors", made.official(decoder=True))
    with pytest.raises(UserError, match="is called like mae_tiny_full, not mae_tiny "):
        open_weights("mae_tiny", file=str(path), hints=HINTS)


def test_contents_must_be_those_of_the_name(entry, tmp_path):
    path = made.write(tmp_path / "full.safetensors", made.official(head=3))
    with pytest.raises(UserError, match="holds a classifier of width 16.*expected a pretraining"):
        read(path)
    path = made.write(tmp_path / "full.safetensors", made.official(decoder=True))
    assert read(path).info["norm_pix"] is True
    with pytest.raises(UserError, match="norm_pix=True, and you say False"):
        read(path, norm_pix=False)


def test_names_without_a_file():
    with pytest.raises(UserError, match="CC-BY-NC.*dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth"):
        open_weights("mae_vit_b16")
    with pytest.raises(UserError, match="Did you mean 'mae_vit_b16'"):
        open_weights("mae_vit_b17")
    with pytest.raises(UserError, match="no published file's name"):
        catalog.get("nothing")


def test_the_catalogue_says_what_papers_mae_md_says():
    by_file = {e.file: e for e in catalog.CATALOG.values()}
    assert [by_file[f"mae_pretrain_vit_{s}.pth"].md5 for s in ("base", "large", "huge")] == [
        "8cad7c",
        "b8b06e",
        "9bdbb0",
    ]
    assert [by_file[f"mae_finetuned_vit_{s}.pth"].md5 for s in ("base", "large", "huge")] == [
        "1b25e9",
        "51f550",
        "2541f2",
    ]
    assert by_file["mae_visualize_vit_huge.pth"].norm_pix is False
    assert by_file["mae_pretrain_vit_large_full.pth"].norm_pix is True
    assert all("CC-BY-NC" in e.licence or e.licence.startswith("unknown: see https://") for e in by_file.values())
    assert all(re.fullmatch(r"https://\S+", e.url) for e in by_file.values()) and catalog.table()


# Folders --------------------------------------------------------------------------------------------------------------


def test_shards(tmp_path):
    tensors = made.official()
    (tmp_path / "x").mkdir()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, own in parts.items():
        made.write(tmp_path / "x" / file, {name: tensors[name] for name in own})
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    (tmp_path / "x" / "model.safetensors.index.json").write_text(json.dumps(index))
    w = read(tmp_path / "x")
    assert len(tree.flatten(w.params)) == len(tensors) - 1  # all but the fixed table
    index["weight_map"]["norm.extra"] = "b.safetensors"
    (tmp_path / "x" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="differ in norm.extra"):
        read(tmp_path / "x")


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(UserError, match="holds no weights"):
        open_weights(tmp_path)
    path = made.write(tmp_path / "a.safetensors", made.official())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read.*Is it whole"):
        read(path)
