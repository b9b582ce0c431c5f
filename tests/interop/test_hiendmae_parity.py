"""Parity with FengheTan9/Hi-End-MAE on its golden file, and its name map."""

import numpy as np
import pytest
from golden_files import GOLDEN

from mae_jax.core.errors import UserError
from mae_jax.interop import parity
from mae_jax.interop.golden import read
from mae_jax.interop.hiendmae import prepare_pretraining, pretraining_method
from mae_jax.interop.names import export_weights, import_weights

FILE = GOLDEN / "hiendmae" / "pretrain.npz"


def test_golden_file():
    lines = parity.compare(read(FILE))
    assert len(lines) == 14
    for line in lines:
        assert line.ok and line.max_rel < 2e-6, line


def test_weights_go_there_and_back():
    golden = read(FILE)
    prepared = prepare_pretraining(golden)
    params, report = import_weights(prepared.rules, golden.weights, prepared.template)
    assert set(report.unused) == {"encoder_pos_embed", "decoder_pos_embed"}
    back = export_weights(prepared.rules, params, constants=True)
    assert back.keys() == golden.weights.keys()
    for name, weight in golden.weights.items():
        np.testing.assert_allclose(back[name], weight, atol=1e-6 if name in report.unused else 0, err_msg=name)


def test_learned_positions_have_the_authors_name_and_no_class_row():
    golden = read(FILE)
    golden.config["pos_embed_type"] = "perceptron"
    prepared = prepare_pretraining(golden)
    params, _ = import_weights(prepared.rules, golden.weights, prepared.template)
    np.testing.assert_array_equal(params["encoder"]["pos_embed"], golden.weights["encoder_pos_embed"])
    # The stored table is the fixed one, so that nothing changes but its having a gradient.
    ours = prepared.run(params)
    np.testing.assert_allclose(ours["loss"], golden.outputs["loss"], rtol=1e-6)
    assert ours["grad_norm/encoder_pos_embed"] > 0


def test_arguments():
    method = pretraining_method({"img_size": [96, 96, 48], "patch_size": 12, "embed_dim": 1536, "num_heads": 16})
    assert method.grid == (8, 8, 4) and method.memory == (3, 6, 9) and method.decoder_dim == 384
    with pytest.raises(UserError, match="'embed_dims'"):
        pretraining_method({"embed_dims": 48})
    with pytest.raises(UserError, match="pos_embed_type='rotary'"):
        pretraining_method({"pos_embed_type": "rotary"})
    with pytest.raises(UserError, match="method.memory"):
        pretraining_method({"depth": 8})
