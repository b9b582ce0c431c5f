"""Every notebook runs from top to bottom."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", sorted((ROOT / "colabs").glob("*.ipynb")), ids=lambda p: p.name)
@pytest.mark.filterwarnings("ignore")  # of the notebook machinery itself
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MAE_JAX_NOTEBOOK_STEPS", "40")
    monkeypatch.setenv("MAE_JAX_NOTEBOOK_WORKDIR", str(tmp_path / "run"))
    monkeypatch.setenv("MAE_JAX_REPOSITORY", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"))
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert sum("image/png" in out.get("data", {}) for out in shown) == 2
    assert any("linear probe" in out.get("text", "") for out in shown)


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
