"""SparK against the authors' code: tests/golden/spark, and the name map both ways.

The files "..._float64" are our own recordings: the authors' code (commit a63e386) run in float64, with a plain torch
ResNet of the same names in timm's place.
"""

import jax
import numpy as np
import pytest
from golden_files import GOLDEN

from mae_jax.core.errors import UserError
from mae_jax.interop import parity
from mae_jax.interop.golden import read
from mae_jax.interop.names import export_weights, import_weights
from mae_jax.interop.spark import encoder_rules, prepare_optimizer, prepare_pretraining, pretraining_method

FILES = sorted((GOLDEN / "spark").glob("*.npz"))

# torch's own float32 rounding. The authors' code in float64 gives 0.258658, ours 0.258658; the file has 0.258049.
ROUNDED = {("resnet", "grad_norm_train/sparse_encoder.sp_cnn.conv1.weight"): 3e-3}
# The comparison passes by size, and is off by what the file above is.
CLOSE = {
    ("resnet", "grad_norm_train/sparse_encoder.sp_cnn.layer3.0.bn2.weight"): 6e-3,
    ("resnet", "grad_norm_train/densify_projs.0.weight"): 3e-4,
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parity(path):
    lines = parity.compare(read(path))
    assert len(lines) == len(read(path).outputs)
    for line in lines:
        key = (path.stem, line.output)
        assert line.max_rel < (ROUNDED | CLOSE).get(key, 3e-5), line
        assert line.ok, line


def test_stale_statistics_are_named_and_real_ones_compared():
    """The stored "after_train" are of before; a recording of our own has the true ones."""
    notes = {line.output: line.note for line in parity.compare(read(GOLDEN / "spark" / "resnet.npz")) if line.note}
    stale = {name for name, note in notes.items() if note.startswith("recorded before the forward")}
    assert len(stale) == 2 and {name.split("/")[0] for name in set(notes) - stale} == {"grad_norm_train"}
    golden = read(GOLDEN / "spark" / "resnet_float64.npz")
    bn1 = "sparse_encoder.sp_cnn.bn1.running_var"
    assert prepare_pretraining(golden).notes == {}
    assert np.abs(golden.outputs[f"after_train/{bn1}"] - golden.weights[bn1]).max() > 1


@pytest.mark.parametrize("stem", ["convnext", "resnet", "resnet_basic_float64"])
def test_export_is_the_inverse(stem):
    golden = read(GOLDEN / "spark" / f"{stem}.npz")
    prepared = prepare_pretraining(golden)
    ours, report = import_weights(prepared.rules, golden.weights, prepared.template)
    theirs = export_weights(prepared.rules, ours)
    assert set(theirs) == set(golden.weights) - set(report.unused)
    assert all(name.endswith("num_batches_tracked") for name in report.unused)
    for name, array in theirs.items():
        np.testing.assert_array_equal(array, golden.weights[name], err_msg=name)


def test_the_encoder_alone_has_the_dense_network_s_names():
    """The "timm_style" files: the same names without the prefix."""
    golden = read(GOLDEN / "spark" / "convnext.npz")
    prefix = "sparse_encoder.sp_cnn."
    weights = {n.removeprefix(prefix): w for n, w in golden.weights.items() if n.startswith(prefix)}
    method = pretraining_method(golden.config)
    image = jax.ShapeDtypeStruct((1, 96, 96, 3), np.float32)
    params, _ = jax.eval_shape(lambda image: method.init(jax.random.key(0), {"image": image}), image)
    import_weights(encoder_rules(method.shape), weights, {"params": {"encoder": params["encoder"]}})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"arch": "vgg"}, "'vgg' has no counterpart"),
        ({"depth": (1, 1, 1, 1)}, "'depth'.*Did you mean 'depths'"),
        ({"densify_norm": "bn"}, "densify_norm='bn'"),
        ({"input_size": 100}, "does not divide"),
        ({"layers": (1, 1, 1, 1)}, "'layers'"),
    ],
)
def test_arguments_are_read_strictly(change, message):
    config = {"arch": "convnext", "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8], "input_size": 96, "dec_width": 64}
    assert pretraining_method(config).grid == (3, 3)
    with pytest.raises(UserError, match=message):
        pretraining_method(config | change)


def test_the_optimizer_s_options_are_read():
    """Another clip, epsilon, or no bias correction: another trajectory than the recorded one."""
    golden = read(GOLDEN / "spark" / "lamb.npz")
    params, _ = import_weights(prepare_optimizer(golden).rules, golden.weights, {})
    base = prepare_optimizer(golden).run(params)["param1/fc.weight"]
    for change in ({"max_grad_norm": 0.5}, {"eps": 1e-2}, {"bias_correction": False}, {"betas": [0.5, 0.95]}):
        golden.meta["config"] = golden.meta["config"] | change
        other = prepare_optimizer(golden).run(params)
        outputs = other["param2/fc.weight" if "max_grad_norm" in change else "param1/fc.weight"]
        assert not np.array_equal(outputs, base), change
