"""Every notebook is what its source says, and runs from top to bottom."""

import importlib.util
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
COLABS = ROOT / "colabs"
# Fewer steps than a reader takes, how many pictures come of it, and what is printed on the way.
NOTEBOOKS = {
    "reconstruct": (dict(STEPS=8), 3, "loss of the hidden half"),
    "pretrain_on_your_folder": (dict(STEPS=20), 3, "linear probe"),
    "probe_and_finetune": (dict(STEPS=20, FINETUNE_STEPS=10), 0, "from scratch: {"),
    "add_a_masking": (dict(STEPS=16), 2, "linear probe"),
}
QUICK = "reconstruct"  # the others train and probe: a minute of processor time each


def with_settings(notebook: nbformat.NotebookNode, settings: dict[str, int]) -> nbformat.NotebookNode:
    """The notebook with other values in its form fields, as a reader sets them."""
    for name, value in settings.items():
        fields = [cell for cell in notebook.cells if re.search(rf"^{name} = .*# @param", cell.source, re.M)]
        assert len(fields) == 1, f"no form field {name}"
        fields[0].source = re.sub(rf"^{name} = \S+", f"{name} = {value}", fields[0].source, flags=re.M)
    return notebook


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n != QUICK else []) for n in NOTEBOOKS])
@pytest.mark.filterwarnings("ignore")  # of the notebook machinery itself
def test_notebook_runs(name, tmp_path, monkeypatch):
    settings, pictures, printed = NOTEBOOKS[name]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"))
    notebook = with_settings(nbformat.read(COLABS / f"{name}.ipynb", as_version=4), settings)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert sum("image/png" in out.get("data", {}) for out in shown) == pictures
    assert printed in "".join(out.get("text", "") for out in shown)


def test_notebooks_are_written_from_their_sources():
    spec = importlib.util.spec_from_file_location("colabs_make", COLABS / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    sources = make.sources()
    assert set(sources.values()) == set(COLABS.glob("*.ipynb")) and {p.stem for p in sources} == set(NOTEBOOKS)
    for source, target in sources.items():
        written = make.notebook(source.read_text())
        assert target.read_text() == written, f"run `python colabs/make.py`: {target.name} is not its source"
        notebook = nbformat.reads(written, as_version=4)
        nbformat.validate(notebook)
        assert notebook.cells[1].source == make.INSTALL.strip("\n")  # the same everywhere, first of all code
        assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.filterwarnings("ignore")
def test_workers_run_from_a_notebook(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cell = nbformat.v4.new_code_cell(
        "from mae_jax.data.pipeline import train_batches\n"
        "from mae_jax.data.sources import make_source\n"
        "from mae_jax.data.transforms import HostAugment\n"
        "from mae_jax.data.views import View, Views\n"
        "source = make_source('photos', 'train', {'crops': 11})\n"
        "views = Views({'image': View(HostAugment((8, 8), 3))})\n"
        "def total(workers):\n"
        "    with train_batches(source, views, batch=4, seed=0, workers=workers) as batches:\n"
        "        return [int(next(batches)['image'].sum()) for _ in range(3)]\n"
        "print(total(2) == total(0))\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    assert notebook.cells[0].outputs[0]["text"] == "True\n"
