"""Every config file builds, and means what its golden text says."""

import difflib

import pytest
from golden_texts import OVERRIDES, ROOT, TEXTS, collapse, configs, golden_text, path_of

from mae_jax.config import load, make_method, resolve
from mae_jax.train.build import build


@pytest.fixture(params=configs(), ids=str)
def config(request):
    return request.param


def test_there_is_a_text_per_config_and_no_other():
    assert {path_of(config) for config in configs()} == set(TEXTS.glob("*.txt")) and len(configs()) >= 6


def test_golden_text(config):
    written, now = path_of(config).read_text().splitlines(), golden_text(config).splitlines()
    changes = "\n".join(difflib.unified_diff(written, now, "recorded", "now", lineterm="", n=0))
    assert not changes, (
        f"{config} means something else than recorded. If that is intended, run `python "
        f"tests/commands/golden_texts.py` and look at its diff:\n{changes}"
    )


def test_config_builds(config):
    """Method, optimizer, schedule and state shapes for the mesh of this machine's devices."""
    raw, doc = load(str(ROOT / config))
    overrides = OVERRIDES.get(raw["data"]["source"], ())
    run = build(resolve(raw, overrides))
    assert run.shapes["params"] and run.mesh.size == 8
    assert all(word in doc for word in ("Run:", "Hardware:", "Expect:")) and f"--config {config}" in doc


def test_overrides_reach_the_method():
    raw, _ = load(str(ROOT / "configs/mae/tiny_digits.py"))
    method = make_method(resolve(raw, ["method.image_size=(8, 16)", "method.patch=4", "method.class_token=False"]))
    assert method.grid == (2, 4) and not method.class_token


def test_collapse_keeps_a_block_that_differs():
    rows = {"e/blocks/0/k": "a", "e/blocks/1/k": "a", "e/blocks/2/k": "b", "e/k": "c"}
    assert collapse(rows) == {
        "e/blocks/0/k": "a", "e/blocks/2/k": "b", "e/blocks/[1]": "1 more, each as e/blocks/0", "e/k": "c",
    }  # fmt: skip
