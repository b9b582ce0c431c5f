"""What `mae_jax compile` says of four large steps is what the golden texts hold (golden_compile.py writes them)."""

import difflib
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import golden_compile as golden
import pytest


def kept(name: str) -> str:
    """The golden text of a case."""
    return (golden.TEXTS / f"{name}.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", golden.CASES)
def test_text_is_the_golden_one(name, tmp_path):
    text = kept(name)
    made_by = text.splitlines()[0]
    try:
        here = f"# libtpu {version('libtpu')}, jax {version('jax')}"
    except PackageNotFoundError:
        pytest.skip(f"libtpu, the TPU's compiler, is not installed; the text is of {made_by[2:]}")
    if here != made_by:
        pytest.skip(f"the text is of {made_by[2:]}, and here is {here[2:]}: another compiler, other figures")
    code = f"import golden_compile; print(golden_compile.made({name!r}), end='')"
    path = os.pathsep.join([str(golden.ROOT), str(golden.ROOT / "tests" / "ahead"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=1800, check=True
    )
    found = done.stdout
    assert found == text, "\n".join(difflib.unified_diff(text.splitlines(), found.splitlines(), lineterm=""))


@pytest.mark.parametrize("name", golden.CASES)
def test_the_golden_texts_hold_the_bars(name):
    """All four fit 16 GiB without accumulation; masking causes no collective; the gradient is summed once."""
    text = kept(name)
    assert f"$ mae_jax {' '.join(golden.command(name))}\n" in text and text.endswith("exit status 0\n")
    assert "caused by masking or restoring: none" in text and "microbatches" not in text
    assert f"all-reduced: {'0.00' if '--config.mesh.fsdp=' in text else '1.000'}" in text


def test_the_docs_show_these_figures():
    """docs/compile.md: the whole report of l16, the memory and the all-reduces of h14, the memory of h14_fsdp."""
    shown = (golden.ROOT / "docs" / "compile.md").read_text()
    body = kept("l16").partition("--config.mesh.fsdp=32\n  v5e")[2].partition("\nexit status")[0]
    assert "peak" in body and body in shown
    peak = {name: float(re.search(r"peak +([\d.]+) GiB", kept(name))[1]) for name in ("h14", "h14_fsdp")}
    assert f"takes {peak['h14']:.1f} GiB there" in shown and f"{peak['h14_fsdp']:.1f} GiB per chip of 16" in shown
    runs, size = re.search(r"all-reduce .* (\d+) +([\d,.]+) ", kept("h14").partition("  all ")[0]).groups()
    assert f"{runs} all-reduces of {size} MiB" in " ".join(shown.split())
