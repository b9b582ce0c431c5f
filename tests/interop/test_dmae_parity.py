"""DMAE against the authors' code: student, teacher, both losses and gradients."""

import numpy as np
import pytest
from golden_files import GOLDEN

from mae_jax.core.errors import UserError
from mae_jax.interop import parity
from mae_jax.interop.dmae import method_of, prepare, rules
from mae_jax.interop.golden import read
from mae_jax.interop.names import export_weights, import_weights

FILES = sorted((GOLDEN / "dmae").glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file(path):
    golden = read(path)
    lines = parity.compare(golden, str(path))
    assert {line.output for line in lines} == set(golden.outputs) and len(FILES) == 2
    for line in lines:
        assert line.ok and line.max_rel < 5e-6, line


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_export_is_the_inverse_of_import(path):
    """Of a published student; and of both together."""
    golden = read(path)
    prepared = prepare(golden)
    both, _ = import_weights(prepared.rules, golden.weights, prepared.template)
    method = method_of(golden.config)
    back = export_weights(rules(method), both["student"], constants=True)
    theirs = {name.removeprefix("student."): x for name, x in golden.weights.items() if name.startswith("student.")}
    assert set(back) == set(theirs)
    for name, tensor in back.items():
        np.testing.assert_allclose(tensor, theirs[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"aligned_feature_projection_mode": "mlp-2layer"}, "does not run"),
        ({"reconstruction_target": "teacher_prediction"}, "original_img"),
        ({"colour": 1}, "no counterpart"),
    ],
)
def test_other_options_are_named(change, word):
    with pytest.raises(UserError, match=word):
        method_of(read(FILES[0]).config | change)
