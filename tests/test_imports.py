"""The import rule: rooms import in one direction only (ARCHITECTURE.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "mae_jax"
FOUNDATION = {"core"}
MIDDLE = {"masking", "tokens", "targets", "losses", "augment"}
MAY_IMPORT = {
    "core": FOUNDATION,
    **{room: FOUNDATION | {room} | ({"core"}) for room in MIDDLE},
    "nets": FOUNDATION | MIDDLE | {"nets"},
    "methods": FOUNDATION | MIDDLE | {"nets", "methods"},
    "teachers": {"core", "nets", "interop", "teachers", "methods.base", "train.checkpoint"},
    "data": {"data", "core.archive", "core.errors", "core.npy", "core.pickles", "core.plain"},
    "modalities": FOUNDATION | MIDDLE | {"data", "methods.base", "nets.compute", "schema", "modalities"},
    "eval": FOUNDATION | MIDDLE | {"nets", "eval", "methods.base"},
    # train.init names files that only the room above can read: weights.store
    "train": FOUNDATION
    | MIDDLE
    | {"nets", "eval", "data", "modalities", "config", "schema", "train", "methods.base", "teachers"}
    | {"weights.store"},
    "weights": FOUNDATION | MIDDLE | {"nets", "interop", "methods", "train", "config", "schema", "weights"},
    "testing": FOUNDATION | MIDDLE | {"nets", "methods.base", "train", "testing"},
    "transfer": FOUNDATION
    | MIDDLE
    | {"nets", "eval", "data", "modalities", "config", "schema", "train", "methods", "weights", "transfer"},
    "doctor": FOUNDATION | {"data", "train", "doctor"},
    "ahead": {"core", "methods.base", "data.sources", "config", "schema", "train", "transfer", "testing.flops"}
    | {"ahead"},
    "library": FOUNDATION
    | MIDDLE
    | {"nets", "eval", "data", "modalities", "train", "methods.base", "weights", "schema", "library"},
    "api": FOUNDATION | MIDDLE | {"nets", "eval", "data", "train", "methods.base", "weights", "library"},
    "schema": {"core.chips"},  # the names of implementations, said once
    "config": {"core.errors", "core.modules", "core.plain", "data.sources", "methods", "modalities", "nets", "schema"},
}


def own_imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, anywhere in it, without the leading 'mae_jax.'."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mae_jax"):
            base = node.module.removeprefix("mae_jax").lstrip(".")
            found |= (
                {base}
                if "." in base or base in ("config", "schema")
                else {f"{base}.{a.name}".strip(".") for a in node.names}
            )
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("mae_jax.") for a in node.names if a.name.startswith("mae_jax.")}
    return found


def files() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if (p.relative_to(ROOT).parts[0].removesuffix(".py")) in MAY_IMPORT)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in own_imports(path):
        allowed = any(name in (room, a) or name.startswith(a + ".") for a in MAY_IMPORT[room])
        assert allowed, f"{path.relative_to(ROOT)} imports mae_jax.{name}; {room} may import {sorted(MAY_IMPORT[room])}"


def test_methods_do_not_import_each_other():
    for path in (ROOT / "methods").glob("*.py"):
        if path.name not in ("__init__.py",):
            assert {n for n in own_imports(path) if n.startswith("methods")} <= {"methods.base", *own_base(path)}


def own_base(path: Path) -> set[str]:
    return {n for n in own_imports(path) if n.startswith("methods.base.")}


def test_no_file_is_longer_than_a_sitting():
    for path in [*ROOT.rglob("*.py"), *(ROOT.parent / "benchmarks").rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 420, path


def test_the_front_door_is_light():
    """`mae_jax --help` must not wait for jax; data must not load it."""
    code = (
        "import sys, mae_jax.commands.main as m; m.make_parser(); assert 'jax' not in sys.modules, 'jax was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, mae_jax.data.decode, mae_jax.data.transforms; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
