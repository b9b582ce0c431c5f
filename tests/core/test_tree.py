"""Paths, rules and their coverage."""

import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError, nearest


def test_flatten_and_unflatten_are_inverse():
    nested = {"a": {"b": {"0": 1, "10": 2}}, "c": 3}
    assert tree.flatten(nested) == {"a/b/0": 1, "a/b/10": 2, "c": 3}
    assert tree.unflatten(tree.flatten(nested)) == nested


def test_sequences_are_numbered():
    assert tree.flatten({"opt": ({"mu": 1}, [2])}) == {"opt/0/mu": 1, "opt/1/0": 2}


def test_first_rule_wins_and_nothing_falls_through():
    rules = ((r"bias$", 0.0), (r"^head/", 2.0))
    assert tree.match(rules, ["head/bias", "head/kernel"]) == {"head/bias": 0.0, "head/kernel": 2.0}
    with pytest.raises(UserError, match=r"no decay rule covers 1 parameter\(s\): encoder/kernel"):
        tree.match(rules, ["encoder/kernel"], "decay rule")


@pytest.mark.parametrize(
    "name, answer",
    [
        ("optim.learnig_rate", "Did you mean 'optim.learning_rate'?"),
        ("learning_rate", "Did you mean 'optim.learning_rate'?"),
        ("zzz", "Known: optim.learning_rate, train.steps."),
    ],
)
def test_nearest(name, answer):
    assert nearest(name, ["optim.learning_rate", "train.steps"]) == answer


def test_not_all_of_many_names_are_listed():
    said = nearest("zzz", [f"key{k:03}" for k in range(100)])
    assert said.startswith("Known: key000, key001, ") and said.endswith(", key039 and 60 more.")


def layer(i, width=3):
    return {"norm1": {"scale": np.full(width, i, np.float32)}}


def test_stacked_layers_keep_their_order_and_come_back():
    """Twelve, because "10" sorts before "2"."""
    params = {"encoder": {"blocks": {str(i): layer(i) for i in range(12)}, "norm": {"scale": np.ones(3)}}}
    stacks = tree.stacks(params)
    assert stacks == {"encoder/blocks": 12}
    stacked = tree.stack_layers(params, stacks)
    found = tree.flatten(stacked)
    assert list(found) == ["encoder/blocks/*/norm1/scale", "encoder/norm/scale"]
    np.testing.assert_array_equal(found["encoder/blocks/*/norm1/scale"][:, 0], np.arange(12))
    back = tree.flatten(tree.unstack_layers(stacked, stacks))
    assert set(back) == set(tree.flatten(params))
    for path, leaf in tree.flatten(params).items():
        np.testing.assert_array_equal(back[path], leaf)
    assert tree.stack_layers(params, {}) == params


def test_only_layers_that_can_run_as_a_loop_are_stacked():
    unlike = {"0": layer(0), "1": layer(1, width=4)}
    gap = {"0": layer(0), "2": layer(2)}
    alike = {"0": layer(0), "1": layer(1)}
    params = {"blocks": unlike, "a": {"blocks": gap}, "b": {"blocks": {"0": layer(0)}}, "stage0_blocks": alike}
    assert tree.stacks(params) == {}
    assert tree.stacks({"cross_blocks": alike, "b": {"blocks": alike}}) == {"cross_blocks": 2, "b/blocks": 2}
