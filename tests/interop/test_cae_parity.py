"""Parity with the authors' code on every golden file of CAE, and that what is exported is what was imported."""

import jax
import numpy as np
import pytest
from golden_files import GOLDEN, write

from mae_jax.core.errors import UserError
from mae_jax.interop import cae, parity
from mae_jax.interop.golden import read
from mae_jax.interop.names import export_weights, import_weights
from mae_jax.train.build import sample_batch

FILES = sorted((GOLDEN / "cae").glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file(path):
    golden = read(path)
    lines = parity.compare(golden, str(path))
    assert {line.output for line in lines} == set(golden.outputs)
    for line in lines:
        assert line.ok and line.max_rel < 2e-6, line


def test_all_files_are_here():
    assert {path.stem for path in FILES} == {"pretrain", "pretrain_noscale", "classifier_finetune", "dalle_encoder"}


def test_released_checkpoints_round_trip():
    """Projection, layer scale, the frozen copy of the encoder: in and out under the same names."""
    config = dict(
        img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, init_values=0.1, decoder_embed_dim=12,
        decoder_num_heads=5, regressor_depth=1, decoder_depth=1, decoder_num_classes=7, n_mask=2, qkv_bias=True,
    )  # fmt: skip
    method = cae.pretraining_method(config)
    rules = cae.pretraining_rules(method)
    params, _ = method.init(jax.random.key(0), sample_batch(method))
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    tensors = export_weights(rules, params, constants=True)
    assert {
        "encoder_to_regresser.weight", "encoder_to_regresser_norm.bias", "rd_pos_embed", "encoder.blocks.0.attn.q_bias",
        "regresser.regressor_blocks.0.cross_attn.v_bias", "regresser.regressor_blocks.0.gamma_1_cross",
    } < set(tensors)  # fmt: skip
    assert tensors["regresser.regressor_blocks.0.cross_attn.q.weight"].shape == (10, 12)
    copy = {f"alignment_{name}": t for name, t in tensors.items() if name.startswith("encoder.")}
    imported, report = import_weights(rules, tensors | copy, params)
    assert set(copy) < set(report.unused)
    for a, b in zip(jax.tree.leaves(imported), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def changed(tmp_path, change):
    with np.load(GOLDEN / "cae" / "pretrain_noscale.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    golden = read(GOLDEN / "cae" / "pretrain_noscale.npz")
    meta = golden.meta
    del arrays["meta"]
    change(meta, arrays)
    return parity.compare(read(write(tmp_path / "x.npz", meta, arrays)))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda meta, arrays: meta["config"].update(n_mask=7), "n_mask=7"),
        (lambda meta, arrays: meta["config"].update(model_type="caev2"), "model_type='caev2'"),
        (lambda meta, arrays: meta["config"].update(registers=2), "'registers'"),
        (lambda meta, arrays: meta["config"].update(img_size=[32, 64]), "covers squares"),
        (
            lambda meta, arrays: arrays.update({"w/regresser.regressor_blocks.0.gamma_1_cross": np.full(32, 0.5)}),
            "gamma_1_cross differs by up to 0.5",
        ),
    ],
)
def test_a_file_that_ours_does_not_fit(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        changed(tmp_path, change)


def test_other_codes_change_the_cross_entropy_alone(tmp_path):
    lines = changed(tmp_path, lambda meta, arrays: arrays.update({"in/token_ids": (arrays["in/token_ids"] + 1) % 64}))
    wrong = {line.output for line in lines if not line.ok}
    assert {"loss_ce", "loss"} <= wrong and not wrong & {"logits", "latent", "loss_align", "latent_target"}
