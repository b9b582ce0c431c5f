"""Parity with Point-MAE and Point-CMAE on their golden files, and their name maps."""

import numpy as np
import pytest
from golden_files import GOLDEN

from mae_jax.core.errors import UserError
from mae_jax.interop import parity
from mae_jax.interop.golden import read
from mae_jax.interop.names import export_weights, import_weights
from mae_jax.interop.pointcmae import pretraining_method as contrastive_method
from mae_jax.interop.pointmae import classifier_method, pretraining_method

# The others hold the same code to other sizes.
QUICK = ("pointmae-classifier", "pointmae-pretrain_cdl1", "pointcmae-pretrain_cdl2")
FILES = sorted((GOLDEN / "pointmae").glob("*.npz")) + sorted((GOLDEN / "pointcmae").glob("*.npz"))


def name(file):
    return f"{file.parent.name}-{file.stem}"


SOME = [pytest.param(f, marks=() if name(f) in QUICK else pytest.mark.slow, id=name(f)) for f in FILES]


@pytest.mark.parametrize("file", SOME)
def test_golden_file(file):
    for line in parity.compare(read(file)):
        assert line.ok and line.max_rel < 5e-6, line


@pytest.mark.parametrize("file", FILES, ids=name)
def test_weights_go_there_and_back(file):
    golden = read(file)
    prepared = parity.case(golden.system, golden.name)(golden)
    params, report = import_weights(prepared.rules, golden.weights, prepared.template)
    assert all(name.endswith("num_batches_tracked") for name in report.unused)
    back = export_weights(prepared.rules, params)
    assert back.keys() == golden.weights.keys() - report.unused.keys()
    for name, weight in back.items():
        np.testing.assert_array_equal(weight, golden.weights[name], err_msg=name)


def test_arguments():
    inner = dict(mask_ratio=0.6, trans_dim=384, encoder_dims=384, depth=12, num_heads=6, decoder_depth=4,
                 decoder_num_heads=6, drop_path_rate=0.1, mask_type="block")  # fmt: skip
    config = dict(NAME="Point_MAE", group_size=32, num_group=64, loss="cdl1", transformer_config=inner)
    for method in (pretraining_method(config), contrastive_method(config)):
        assert (method.mask, method.chamfer, method.groups, method.group_points) == ("block", "l1", 64, 32)
    with pytest.raises(UserError, match="encoder_dims=256"):
        pretraining_method(config | {"transformer_config": inner | {"encoder_dims": 256}})
    with pytest.raises(UserError, match="loss='emd'"):
        pretraining_method(config | {"loss": "emd"})
    sizes = dict(trans_dim=24, depth=2, num_heads=2, group_size=4, num_group=8, encoder_dims=24)
    method = classifier_method(sizes | {"type": "mlp3", "cls_dim": 3}, 16)
    assert method.head_kind == "mlp3" and method.trained and "(?!" in next(iter(method.dead))
