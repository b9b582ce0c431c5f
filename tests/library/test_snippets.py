"""The Python of docs/library.md and docs/your_own_method.md runs as it stands, from top to bottom."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mae_jax.commands.main import main

DOCS = Path(__file__).parents[2] / "docs"


def snippets(page: str) -> str:
    """All Python blocks of a page, as one program."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder; commands that a page starts as processes run in this one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda argv, check: main(argv[1:]) == 0 or pytest.fail(str(argv)))
    return tmp_path


def test_library(here, workdir):
    shutil.copytree(workdir, here / "runs/digits")
    found: dict = {}
    exec(compile(snippets("library.md"), "library.md", "exec"), found)
    assert found["features"].shape == (100, 16) and found["painted"].pictures["pasted"].shape == (4, 8, 8, 1)
    assert found["table"]["features"].shape == (1797, 16)
    mean = found["mean_token"](found["model"].params, found["ready"].astype(np.float32))
    np.testing.assert_allclose(mean, found["features"][:4], atol=2e-5)


def test_your_own_method(here, capsys):
    assert main(["new", "my_method"]) == 0
    found: dict = {}
    exec(compile(snippets("your_own_method.md"), "your_own_method.md", "exec"), found)
    text = (DOCS / "your_own_method.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) - {"my_method"} == set(found["conformance"].CHECKS)
