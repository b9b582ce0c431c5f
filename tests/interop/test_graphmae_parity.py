"""Parity with the authors' code on every golden file of GraphMAE; weights go out as they came in; strictness.

The files own_*.npz were recorded by us: the authors' model, run on a stand-in for the DGL calls, as theirs was.
"""

import numpy as np
import pytest
from golden_files import GOLDEN, write

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.interop import graphmae, parity
from mae_jax.interop.golden import read
from mae_jax.interop.names import export_weights, import_weights

FILES = sorted((GOLDEN / "graphmae").glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file_and_round_trip(path):
    golden = read(path)
    lines = parity.compare(golden, str(path))
    assert {line.output for line in lines} >= set(golden.outputs)
    for line in lines:
        assert line.ok and line.max_rel < 1e-5, line
    prepared = graphmae.prepare(golden)
    ours, report = import_weights(prepared.rules, golden.weights, prepared.template)
    theirs = export_weights(prepared.rules, ours)
    assert set(golden.weights) - set(theirs) == set(report.unused)
    assert all(name.endswith("num_batches_tracked") for name in report.unused)
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(tensor, golden.weights[name], err_msg=name)
    assert tree.size(ours["params"]) == sum(golden.weights[n].size for n in report.used if not buffer(n))


def buffer(name):
    return name.endswith(("running_mean", "running_var", ".eps"))


def changed(tmp_path, **config):
    """gat_gat with other arguments of the constructor."""
    with np.load(GOLDEN / "graphmae" / "gat_gat.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files if key != "meta"}
    meta = read(GOLDEN / "graphmae" / "gat_gat.npz").meta
    return read(write(tmp_path / "x.npz", meta | {"config": meta["config"] | config}, arrays))


@pytest.mark.parametrize(
    "config, message",
    [
        (dict(nhead_out=2), "nhead_out=2"),
        (dict(norm="graphnorm"), "norm='graphnorm'"),
        (dict(encoder_type="mlp"), "encoder_type='mlp'"),
        (dict(activation="tanh"), "activation='tanh'"),
        (dict(loss_fn="sig"), "loss_fn='sig'"),
        (dict(dropout=0.1), "'dropout'"),
        (dict(num_layers=3), "encoder/2/fc/kernel .* filled by no tensor"),
        (dict(encoder_type="gcn"), "known to no rule"),
        (dict(drop_edge_rate=0.5), "in/edge_keep"),
        (dict(in_dim=21), "in_dim says 21"),
    ],
)
def test_a_file_that_ours_does_not_fit(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        parity.compare(changed(tmp_path, **config))


def test_the_loss_s_options_are_read(tmp_path):
    """Another power, and another slope of the attention, show in the outputs that they touch and in no others."""
    failed = {line.output for line in parity.compare(changed(tmp_path, alpha_l=2)) if not line.ok}
    assert "loss" in failed and not failed & {"corrupted", "latent", "reconstruction", "embedding"}
    failed = {line.output for line in parity.compare(changed(tmp_path, negative_slope=0.5)) if not line.ok}
    assert {"hidden0", "latent", "embedding"} <= failed and "corrupted" not in failed
