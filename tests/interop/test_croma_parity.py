"""Parity with antofuller/CROMA on its golden files, and its name maps."""

import jax
import numpy as np
import pytest
from golden_files import GOLDEN

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.interop import parity
from mae_jax.interop.croma import (
    RELEASED,
    encoder_rules,
    extractor_method,
    prepare_extractor,
    prepare_pretraining,
    pretraining_method,
)
from mae_jax.interop.golden import read
from mae_jax.interop.names import export_weights, import_weights
from mae_jax.methods.croma import CROMA
from mae_jax.train.build import sample_batch

FILES = sorted((GOLDEN / "croma").glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file(path):
    lines = parity.compare(read(path))
    assert len(lines) == (6 if path.stem == "encode" else 17)
    for line in lines:
        assert line.ok and (line.max_rel < 2e-6 or line.max_abs < 1e-7), line


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_weights_go_there_and_back(path):
    golden = read(path)
    prepared = (prepare_extractor if path.stem == "encode" else prepare_pretraining)(golden)
    params, report = import_weights(prepared.rules, golden.weights, prepared.template)
    assert set(report.unused) <= {"decoder.decoder_pos_embed"}
    back = export_weights(prepared.rules, params, constants=True)
    assert back.keys() == golden.weights.keys()
    for name, weight in golden.weights.items():
        np.testing.assert_allclose(back[name], weight, atol=1e-6 if name in report.unused else 0, err_msg=name)


@pytest.mark.parametrize("modality, sensor, theirs", [("SAR", "radar", "SAR"), ("optical", "optical", "optical")])
def test_extractor_of_one_sensor(modality, sensor, theirs):
    """With one sensor's weights alone, the same features as of both."""
    golden = read(GOLDEN / "croma" / "encode.npz")
    golden.config["modality"] = modality
    prepared = prepare_extractor(golden)
    kept = {n: w for n, w in golden.weights.items() if ("s1" if sensor == "radar" else "s2") in n}
    params, _ = import_weights(prepared.rules, kept, prepared.template)
    with jax.default_matmul_precision("highest"):
        ours = prepared.run(params)
    assert set(ours) == {f"{theirs}_encodings", f"{theirs}_GAP"}
    for name, x in ours.items():
        np.testing.assert_allclose(x, golden.outputs[name], rtol=1e-4, atol=1e-5)


def test_released_files_hold_the_extractor_under_their_own_names():
    """use_croma.py loads the keys s1_encoder, s1_GAP_FFN, s2_encoder, s2_GAP_FFN, joint_encoder."""
    method = CROMA(image_size=16, dim=32, depth=2, heads=4)
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))
    encoders = {n: shapes[n] for n in ("radar", "optical", "joint", "radar_gap", "optical_gap")}
    weights = export_weights(encoder_rules(method), jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), encoders))
    assert {n.split(".")[0] for n in weights} == {
        "s1_encoder", "s1_GAP_FFN", "s2_encoder", "s2_GAP_FFN", "joint_encoder"
    }  # fmt: skip
    assert weights["s2_encoder.linear_input.weight"].shape == (32, 12 * 64)
    params, _ = import_weights(encoder_rules(method, RELEASED), weights, encoders)
    assert tree.flatten(params).keys() == tree.flatten(encoders).keys()


def test_arguments():
    assert pretraining_method({}) == CROMA() and extractor_method({"size": "large"})[0].depth == 24
    assert extractor_method({"image_resolution": 240})[0].grid == (30, 30)
    for config, message in (
        ({"total_channels": 10}, "total_channels=10"),
        ({"num_patches": 40}, "num_patches=40"),
        ({"encoder_dims": 40}, "'encoder_dims'"),
    ):
        with pytest.raises(UserError, match=message):
            pretraining_method(config)
    with pytest.raises(UserError, match="modality='radar'"):
        extractor_method({"modality": "radar"})
