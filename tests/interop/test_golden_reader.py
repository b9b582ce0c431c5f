"""The reader of golden files."""

import json
import zlib

import numpy as np
import pytest
from golden_files import GOLDEN, raw, write

from mae_jax.core.errors import UserError
from mae_jax.interop.golden import read, rule_weight


def test_weight_rule():
    draw = np.random.default_rng([zlib.crc32(b"blocks.0.norm1.weight"), 3]).standard_normal(5).astype(np.float32)
    np.testing.assert_array_equal(rule_weight("blocks.0.norm1.weight", [5], 3), 1 + np.float32(0.1) * draw)
    assert abs(rule_weight("a.weight", (100, 100), 0).std() - 0.1) < 0.003
    assert abs(rule_weight("a.weight", (10000,), 0).mean() - 1) < 0.005
    running = rule_weight("bn.running_var", (10000,), 0)
    assert running.min() >= 0.5 and running.max() < 1.5 and abs(running.mean() - 1) < 0.02
    counter = rule_weight("bn.num_batches_tracked", (), 0)
    assert counter.dtype == np.int64 and counter == 0
    assert not np.array_equal(rule_weight("a", (4,), 0), rule_weight("a", (4,), 1))


def test_stored_tensors_take_precedence():
    golden = read(GOLDEN / "mae" / "pretrain.npz")
    assert golden.system == "mae" and golden.name == "MaskedAutoencoderViT" and golden.config["depth"] == 2
    assert not golden.weights["pos_embed"][0, 0].any()  # the fixed table's class row, not the rule's numbers
    assert golden.weights["patch_embed.proj.weight"].shape == (32, 3, 8, 8)
    assert set(golden.inputs) == {"imgs", "noise"} and "grad_norm/mask_token" in golden.outputs


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"There is no file"):
        read(tmp_path / "absent.npz")
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    with pytest.raises(UserError, match=r"not an .npz archive"):
        read(text)
    whole = (GOLDEN / "mae" / "pretrain.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut off"):
        read(tmp_path / "cut.npz")
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0x10
    (tmp_path / "flipped.npz").write_bytes(flipped)
    with pytest.raises(UserError, match=r"cannot be read"):
        read(tmp_path / "flipped.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(UserError, match=r"not a golden file"):
        read(tmp_path / "other.npz")
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], dtype=object), meta=np.array(json.dumps({})))
    with pytest.raises(UserError, match=r"cannot be read"):
        read(tmp_path / "pickle.npz")


@pytest.mark.parametrize("key", ["system", "class", "weights"])
def test_incomplete_meta(tmp_path, key):
    meta, arrays = raw("pretrain")
    del meta[key]
    with pytest.raises(UserError, match=key):
        read(write(tmp_path / "x.npz", meta, arrays))


def test_shape_of_a_stored_tensor(tmp_path):
    meta, arrays = raw("pretrain")
    arrays["w/pos_embed"] = arrays["w/pos_embed"][:, :3]
    with pytest.raises(UserError, match=r"pos_embed is stored with shape"):
        read(write(tmp_path / "x.npz", meta, arrays))


def test_nothing_to_compare(tmp_path):
    meta, arrays = raw("pretrain")
    with pytest.raises(UserError, match=r"no out/"):
        read(write(tmp_path / "x.npz", meta, {k: v for k, v in arrays.items() if not k.startswith("out/")}))
