"""Methods outside the package: how a config names them, and what `mae_jax new` writes."""

import ast
import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax import methods
from mae_jax.commands import new
from mae_jax.commands.main import main
from mae_jax.config import differences, load, make_method, resolve
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.methods.mae import MAE
from mae_jax.nets.compute import Compute
from mae_jax.testing import conformance

ROOT = Path(__file__).parents[2]
METHOD = """
from __future__ import annotations

import dataclasses
from typing import ClassVar

from {neighbour} import NAME, Base


@dataclasses.dataclass(frozen=True, kw_only=True)
class {cls}(Base):
    name: ClassVar[str] = NAME
    {field}: int = 3
"""
NEIGHBOUR = """
from __future__ import annotations

from mae_jax.methods.mae import MAE as Base

NAME = "{name}"
"""


def method_file(folder, name, cls="Mine", field="extra"):
    folder.mkdir(exist_ok=True)
    (folder / "shared_things.py").write_text(NEIGHBOUR.format(name=name))
    path = folder / f"{name}.py"
    path.write_text(METHOD.format(neighbour="shared_things", cls=cls, field=field))
    return path


# Names ----------------------------------------------------------------------------------------------------------------


def test_a_config_names_a_method_by_its_file(tmp_path, monkeypatch):
    path = method_file(tmp_path / "a", "first")
    monkeypatch.chdir(tmp_path)
    config = resolve({"method": {"name": "a/first.py", "image_size": 8, "patch": 2, "extra": 5}})
    assert config.method["name"] == str(path)  # absolute: config.json is read from anywhere
    method = make_method(resolve(json.loads(json.dumps(config.to_dict()))))
    assert (method.name, method.extra, method.depth) == ("first", 5, 24) and isinstance(method, MAE)
    assert type(method) is methods.get(str(path)) is methods.get("a/first.py:Mine")  # one file, one class
    with pytest.raises(UserError, match="Did you mean 'method.extra'?"):
        resolve({"method": {"name": "a/first.py", "extr": 5}})


def test_folders_with_neighbours_of_one_name_do_not_mix(tmp_path):
    first, second = method_file(tmp_path / "a", "first"), method_file(tmp_path / "b", "second")
    assert methods.get(str(first)).name == "first" and methods.get(str(second)).name == "second"


def test_a_changed_file_is_read_again(tmp_path):
    path = method_file(tmp_path, "first")
    old = methods.get(str(path))
    method_file(tmp_path, "first", field="other")
    os.utime(path, (1, 1))
    assert {f.name for f in dataclasses.fields(methods.get(str(path)))} - {f.name for f in dataclasses.fields(old)} == {
        "other"
    }


def test_a_method_may_move_between_a_run_and_its_resumption(tmp_path):
    configs = [resolve({"method": {"name": str(method_file(tmp_path / x, "first"))}}).to_dict() for x in "ab"]
    assert differences(*configs) == []
    other = resolve({"method": {"name": str(method_file(tmp_path / "b", "second"))}}).to_dict()
    assert any("method.name" in text for text in differences(configs[0], other))


def test_a_module_and_an_installed_package(tmp_path, monkeypatch):
    method_file(tmp_path / "some_package", "first")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "some_package")
    assert methods.get("some_package.first").name == methods.get("some_package.first:Mine").name == "first"
    point = importlib.metadata.EntryPoint("offered_method", "some_package.first:Mine", methods.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == methods.GROUP else [])
    assert methods.get("offered_method").name == "first" and "offered_method" in methods.offered()
    assert "offered_method" not in methods.names()
    with pytest.raises(UserError, match="Did you mean 'offered_method'?"):
        methods.get("offered_methd")


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("none.py", None, "there is no file"),
        ("m.py", "x = 1", "this module defines no method"),
        ("m.py", "class A(:", "no valid Python"),
        (
            "m.py",
            "from mae_jax.methods.mae import MAE\nclass A(MAE):\n  name='a'\nclass B(MAE):\n  name='b'",
            "m.py:A'",
        ),
        ("m.py:C", "from mae_jax.methods.mae import MAE\nclass A(MAE):\n  name='a'", "there is no 'C' in it"),
        ("m.py:x", "x = 1", "is 1, which is no class"),
        ("no_such_package.mod", None, "Python finds no module 'no_such_package'"),
        ("mea", None, "Did you mean 'mae'?"),
    ],
)
def test_a_wrong_name_is_one_paragraph(tmp_path, monkeypatch, name, text, message):
    monkeypatch.chdir(tmp_path)
    if text:
        Path("m.py").write_text(text)
    with pytest.raises(UserError) as error:
        methods.get(name)
    assert message in str(error.value) and "\n" not in str(error.value)


# mae_jax new ----------------------------------------------------------------------------------------------------------


def test_what_new_writes_runs_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my_idea"]) == 0
    said = capsys.readouterr().out
    files = {str(p) for p in Path("my_idea").rglob("*") if p.is_file()}
    assert files == {"my_idea/my_idea.py", "my_idea/configs/tiny.py", "my_idea/tests/test_my_idea.py",
                     "my_idea/docs/my_idea.md"}  # fmt: skip
    assert all(name in said for name in files)
    for name in files:
        text = Path(name).read_text()
        assert "my_method" not in text and "MyMethod" not in text and "CONFIG" not in text
        assert not name.endswith(".py") or ast.get_docstring(ast.parse(text))
    method = Path("my_idea/my_idea.py").read_text()
    assert all(f"YOUR {place}" in method for place in ("MASKING", "TARGET", "LOSS"))
    assert method.count("\n") < 120 and "class MyIdea(Method)" in method
    raw, title = load("my_idea/configs/tiny.py")
    assert title.startswith("my_idea on scikit-learn's")
    quick = [
        "train.steps=2", "method.dim=16", "method.depth=1", "method.decoder_dim=8", "method.decoder_depth=1",
        "train.batch=16", "optim.warmup=1", "eval.every=0", "eval.protocols=()", "log.tensorboard=False",
    ]  # fmt: skip
    argv = ["train", "--config", "my_idea/configs/tiny.py", "--workdir", "run", *(f"--config.{o}" for o in quick)]
    assert main(argv) == 0 and Path("run/pictures/step_00000002.png").is_file()
    assert json.loads(Path("run/config.json").read_text())["method"]["name"] == str(tmp_path / "my_idea/my_idea.py")
    assert main(["new", "my_idea"]) == 2 and "exist(s) already" in capsys.readouterr().err


@pytest.mark.parametrize("name, cls", [("my_method", "MyMethod"), ("idea", "Idea"), ("method", "MethodMethod")])
def test_the_class_is_called_after_the_method(name, cls):
    """With "Method" behind it only where the template uses the name for something else."""
    assert new.class_name(name, new.templates()[0]) == cls


def test_what_new_writes_drops_paths_where_it_is_fine_tuned():
    """`encode` of the template takes drop path from transfer.drop_path, in training alone."""
    sizes = dict(image_size=8, patch=4, channels=1, dim=16, depth=2, heads=2)
    sizes |= dict(decoder_dim=8, decoder_depth=1, decoder_heads=2)
    method = methods.get(str(ROOT / "mae_jax/template/method.py"))(**sizes, compute=Compute(drop_path=0.9))
    case = conformance.case(method)
    given = {"drop_path": jnp.zeros((4, 2, 2))}  # a draw of 0 drops both branches of the second block

    def tokens(train):
        ctx = Context(jax.random.key(0), given=given)
        return method.encode(case.params, case.rest, case.batch, ctx=ctx, train=train).tokens

    plain = method.encode(case.params, case.rest, case.batch).tokens
    np.testing.assert_array_equal(tokens(False), plain)
    assert np.abs(tokens(True) - plain).max() > 1e-2


@pytest.mark.slow
def test_the_tests_that_new_writes_pass(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert main(["new", "my_idea", "--dir", str(tmp_path / "mine")]) == 0
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", str(tmp_path / "mine")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "12 passed" in done.stdout, done.stdout


def test_in_a_clone_it_goes_to_its_places(tmp_path, monkeypatch, capsys):
    for name in ("mae_jax/methods/base.py", "tests/tiny_methods.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mask", "--in-repo"]) == 0
    assert '"mask": dict(' in capsys.readouterr().out
    assert "class MaskMethod(Method)" in Path("mae_jax/methods/mask.py").read_text()  # Mask is a name that it imports
    assert 'METHOD = "mask"' in Path("configs/mask/tiny_digits.py").read_text()
    test = Path("tests/methods/test_mask.py").read_text()
    assert 'methods.get("mask")' in test and "def test_conformance" not in test and "Path" not in test
    assert Path("docs/methods/mask.md").is_file()
    ast.parse(test)


@pytest.mark.parametrize(
    "argv, message",
    [
        (("9lives",), "a Python name is expected"),
        (("my-method",), "as 'my_method'"),
        (("class",), "a Python name is expected"),
        (("mae",), "a method 'mae' exists already"),
        (("base",), "exists already"),
        (("json",), "a Python module 'json' is installed"),
        (("numpy",), "a Python module 'numpy' is installed"),
        (("fine", "--in-repo"), "is none: go there"),
        (("fine", "--dir", "taken"), "cannot write"),
    ],
)
def test_a_bad_name_or_place_writes_nothing(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    Path("taken").touch()
    assert main(["new", *argv]) == 2
    assert message in capsys.readouterr().err and [p.name for p in tmp_path.rglob("*")] == ["taken"]
