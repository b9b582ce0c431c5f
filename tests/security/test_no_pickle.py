"""No pickle in what is written: nothing in the package writes one, and no file of a run is one."""

import ast
import json
import pickletools
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import tiny

import mae_jax
from mae_jax.core import npy
from mae_jax.core.exits import DONE
from mae_jax.interop.files import read_tensors
from mae_jax.train.loop import train

ROOT = Path(mae_jax.__file__).parent
WRITERS = {"dump", "dumps", "Pickler", "to_pickle", "save"}
# Data workers get what they compute from, and give back their errors, by pipes between processes of one run.
BETWEEN_PROCESSES = {"data/workers.py"}


def calls(path: Path):
    """(module, function) of every call `module.function(...)` in a file, and its keywords."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func.value), node.func.attr, {k.arg: k.value for k in node.keywords}


def test_nothing_writes_or_runs_a_pickle():
    found = []
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        for module, function, keywords in calls(path):
            word = module.split(".")[-1]
            pickles = word in ("pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "torch", "_pickle")
            if pickles and name not in BETWEEN_PROCESSES:
                found.append(f"{name}: {module}.{function}")
            if module == "np" and function in ("load", "save", "savez", "savez_compressed", "fromfile"):
                allowed = keywords.get("allow_pickle")
                if isinstance(allowed, ast.Constant) and allowed.value is True:
                    found.append(f"{name}: np.{function}(allow_pickle=True)")
                if function == "load":
                    found.append(f"{name}: np.load, where core/npy.py reads")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "marshal", "joblib", "torch", "dill"):
                found.append(f"{name}: from {node.module} import")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                found.append(f"{name}: {node.func.id}")
    assert not found


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run that writes all it can."""
    where = tmp_path_factory.mktemp("run") / "a"
    config = tiny("train.steps=4", "checkpoint.every=2", "eval.protocols=('knn',)", "eval.limit=64")
    assert train(config, where) == DONE
    return where


def is_pickle(data: bytes) -> bool:
    """Whether bytes are a whole pickle of protocol 2 or later, or one of numpy's objects."""
    if not data.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return False
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(data))
    except ValueError:
        return False


def test_the_files_of_a_run_are_data(workdir):
    files = [path for path in workdir.rglob("*") if path.is_file()]
    assert len(files) > 10
    kinds = set()
    for path in files:
        data = path.read_bytes()
        assert not is_pickle(data), path
        if path.suffix in (".json", ".jsonl"):
            for text in data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]:
                json.loads(text)
        elif path.suffix == ".npz":
            assert dict(npy.Npz(path))
        elif path.suffix == ".npy":
            npy.array(data)
        elif path.suffix == ".safetensors":
            read_tensors(path)
        elif zipfile.is_zipfile(path):
            pytest.fail(f"{path} is an archive that nobody knows")
        kinds.add(path.suffix)
    assert {".json", ".jsonl"} <= kinds
    assert is_pickle(__import__("pickle").dumps({"a": np.ones(2)}))  # the test can fail
