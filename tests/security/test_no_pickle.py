"""No pickle in what is written: nothing in the package writes one (test_json_configs.py reads what a run wrote)."""

import ast
from pathlib import Path

import mae_jax

ROOT = Path(mae_jax.__file__).parent
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
