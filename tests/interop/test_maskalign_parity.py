"""Parity with the authors' code and with the teachers' towers, and the way back."""

import dataclasses

import jax
import numpy as np
import pytest
from golden_files import GOLDEN

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.interop import clip_vision_teacher, dino_vit_teacher, maskalign, parity
from mae_jax.interop.golden import read
from mae_jax.interop.names import export_weights, import_weights

FILES = sorted((GOLDEN / "maskalign").glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file(path):
    golden = read(path)
    lines = parity.compare(golden, str(path))
    assert {line.output for line in lines} >= set(golden.outputs)
    for line in lines:
        assert line.ok and line.max_rel < 2e-6, line


def test_all_files_are_here():
    names = {"clip_teacher", "dino_teacher", "pretrain", "pretrain_simple", "pretrain_unequal"}
    assert {path.stem for path in FILES} == names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_export_is_the_inverse_of_import(path):
    golden = read(path)
    prepared = parity.case(golden.system, golden.name)(golden)
    params, _ = import_weights(prepared.rules, golden.weights, prepared.template)
    exported = export_weights(prepared.rules, params, constants=True)
    assert set(exported) == set(golden.weights)
    for name, tensor in golden.weights.items():
        np.testing.assert_allclose(exported[name], tensor, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("head", maskalign.HEADS)
@pytest.mark.parametrize("fusion", ["simple", "linear", "sum"])
def test_every_parameter_has_a_name_of_theirs(head, fusion):
    """No two of ours under one name, whatever the options."""
    method = maskalign.method_of(read(GOLDEN / "maskalign" / "pretrain.npz").config)
    method = dataclasses.replace(method, head=head, fusion=fusion, depth=2, teacher_depth=2)
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0), {"image": np.zeros((1, 32, 32, 3), np.float32)})
    params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
    names = export_weights(maskalign.rules(method), params)
    assert len(names) == len(tree.flatten(params))
    back, _ = import_weights(maskalign.rules(method), names, shapes)
    assert jax.tree.structure(back) == jax.tree.structure(params)


def test_the_teacher_in_a_released_checkpoint_is_dropped():
    golden = read(GOLDEN / "maskalign" / "pretrain.npz")
    prepared = maskalign.prepare(golden)
    tensors = golden.weights | {"clip_model.vision_model.embeddings.class_embedding": np.zeros(4)}
    _, report = import_weights(prepared.rules, tensors, prepared.template)
    assert "teacher" in report.unused["clip_model.vision_model.embeddings.class_embedding"]


def test_arguments_are_read_strictly():
    base = {"teacher_depth": 24, "teacher_dim": 8}
    assert maskalign.method_of(base).layer_weights == "mean"
    with pytest.raises(UserError, match="'loss_weight'.*Did you mean 'loss_weights'"):
        maskalign.method_of(base | {"loss_weight": "top2"})
    with pytest.raises(UserError, match="is no rule"):
        maskalign.method_of(base | {"loss_weights": "top99"})
    with pytest.raises(UserError, match="hidden_act='relu'"):
        clip_vision_teacher.tower_of({"hidden_act": "relu"})
    assert dino_vit_teacher.tower_of({"intermediate_size": 100, "hidden_size": 96}).shape.mlp_ratio * 96 >= 100
