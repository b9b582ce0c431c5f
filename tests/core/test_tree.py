"""Paths, rules and their coverage."""

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
