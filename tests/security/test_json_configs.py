"""A resolved config is data: it trains without running Python, and a method that is code runs only where it may."""

import json
import pickle
import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_runs import config_file, metrics, tiny

from mae_jax import methods
from mae_jax.commands.main import main
from mae_jax.config import load, resolve
from mae_jax.core import npy
from mae_jax.core.errors import UserError
from mae_jax.core.exits import BAD_INPUT, DONE
from mae_jax.interop.files import read_tensors
from mae_jax.weights import store

CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("ran")

import dataclasses
from typing import ClassVar
from mae_jax.methods.mae import MAE

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(MAE):
    name: ClassVar[str] = "mine"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run, from a .py."""
    root = tmp_path_factory.mktemp("run")
    config = config_file(root / "c.py", tiny("train.steps=4", "checkpoint.every=2", "log.norms=none", "eval.limit=32"))
    assert main(["train", "--config", str(config), "--workdir", str(root / "a")]) == DONE
    return root / "a"


def test_a_run_is_repeated_from_its_json(run, tmp_path, capsys):
    config = str(run / "config.json")
    assert main(["train", "--config", config, "--workdir", str(tmp_path / "b")]) == DONE
    losses = [[line["loss"] for line in metrics(workdir) if "loss" in line] for workdir in (run, tmp_path / "b")]
    assert losses[0] == losses[1] and losses[0]
    ours, theirs = (json.loads((w / "config.json").read_text()) for w in (run, tmp_path / "b"))
    assert ours == theirs
    # The run itself goes on by it, and by it to more steps.
    assert main(["train", "--config", config, "--workdir", str(tmp_path / "b"), "--config.train.steps=6"]) == DONE
    assert metrics(tmp_path / "b")[-1]["step"] == 6
    capsys.readouterr()
    assert main(["train", "--config", config, "--workdir", str(tmp_path / "c"), "--config.train.stepz=6"]) == BAD_INPUT
    assert "train.steps" in capsys.readouterr().err


@pytest.mark.slow
def test_finetune_reads_it_too(run, tmp_path):
    finetune = ["finetune", "--workdir", str(run), "--config", str(run / "config.json"), "--out", str(tmp_path / "ft")]
    assert main([*finetune, "--config.train.steps=2", "--config.optim.warmup=0"]) == DONE
    assert json.loads((tmp_path / "ft" / "config.json").read_text())["transfer"]["task"] == "finetune"


def is_pickle(data: bytes) -> bool:
    """Whether bytes are a whole pickle of protocol 2 or later."""
    if not data.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return False
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(data))
    except ValueError:
        return False


def test_the_files_of_a_run_are_data(run):
    """No pickle in what is written: every file of a run is JSON, text, a picture, or arrays without objects."""
    files = [path for path in run.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert len(files) > 10 and {".json", ".jsonl", ".png"} <= kinds
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
        else:
            assert not zipfile.is_zipfile(path), f"{path} is an archive that nobody knows"
    assert is_pickle(pickle.dumps({"a": 1}))  # the test can fail


def test_nothing_is_run(tmp_path):
    """A process that trains from a .json never enters the interpreter's exec: no config module, no file of ours run."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tiny().to_dict()))
    code = (
        "import sys\nfrom mae_jax.core import modules\n"
        "modules.run_file = lambda *a, **k: sys.exit('a file was run')\n"
        "import mae_jax.config, mae_jax.methods\n"
        "mae_jax.config.run_file = mae_jax.methods.run_file = modules.run_file\n"
        f"from mae_jax.config import load, resolve\nprint(resolve(load({str(config)!r})[0]).method['name'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "mae", done.stderr
    done = subprocess.run(
        [sys.executable, "-c", code.replace("config.json", "config.py")], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode


@pytest.mark.parametrize(
    "text, says",
    [
        ("[1]", "sections"),
        ("{", "no JSON"),
        ("[" * 100_000, "deeply"),
        ('{"method": {"name": "mae"}, "method": {"name": "lut"}}', "twice"),
        ('{"method": {"name": "mae", "dimm": 3}}', "Did you mean 'method.dim'"),
        ('{"method": {"name": "mae", "dim": "wide"}}', "'method.dim' is 'wide'"),
        ('{"method": {"name": ["mae"]}}', "method.name"),
        ('{"method": "mae"}', "keys and values"),
        ('{"methods": {}}', "Did you mean 'method'"),
        ("{}", "names no method"),
        ('{"method": {"name": "mae", "dim": ' + "9" * 5000 + "}}", "no JSON"),
    ],
)
def test_mistakes_in_json_are_named(tmp_path, text, says):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        resolve(load(str(path))[0])
    with pytest.raises(UserError, match="takes no argument"):
        load(f"{path}:big")


def test_a_config_that_is_too_large(tmp_path):
    path = tmp_path / "c.json"
    with path.open("wb") as file:
        file.truncate(20 << 20)
    with pytest.raises(UserError, match="at most"):
        load(str(path))


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """(a method that leaves a marker when it runs, the marker), and no memory of what ran before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(methods, "_this_process", set())
    marker = tmp_path / "marker"
    (tmp_path / "theirs.py").write_text(CODE.format(marker=str(marker)))
    return tmp_path / "theirs.py", marker


def names(run, method, config):
    """Write the run's config with another method to `config`, and return it."""
    raw = json.loads((run / "config.json").read_text())
    raw["method"]["name"] = str(method)
    config.write_text(json.dumps(raw))
    return raw


def test_a_method_that_is_code_is_not_started_by_data(stranger, run, tmp_path):
    method, marker = stranger
    config = tmp_path / "c.json"
    raw = names(run, method, config)
    with pytest.raises(UserError, match="which is Python code"):
        load(str(config))
    weights = store.from_workdir(run)
    store.write(tmp_path / "w.safetensors", store.Weights(raw, weights.params, info=weights.info))
    with pytest.raises(UserError, match=r"--config\.method\.name="):
        store.open_weights(tmp_path / "w.safetensors")
    for verb in (["reconstruct"], ["evaluate"]):
        assert main([*verb, "--weights", str(tmp_path / "w.safetensors")]) == BAD_INPUT
    names(run, "antigravity.gravity:Method", config)
    with pytest.raises(UserError, match="never ran here"):
        load(str(config))
    assert not marker.exists()


def test_code_that_ran_before_may_run_again(stranger, run, tmp_path):
    method, marker = stranger
    config = tmp_path / "c.json"
    names(run, method, config)
    name = f"method.name={method}"
    assert resolve(load(str(config), [name])[0], [name]).method["name"] == str(method)  # named by the user: it runs
    assert marker.exists()
    methods._this_process.clear()  # as another process of this user
    assert resolve(load(str(config))[0]).method["name"] == str(method)
    methods._this_process.clear()
    method.write_text(method.read_text() + "\nprint('more')\n")  # other code in the same place
    with pytest.raises(UserError, match="never ran here"):
        load(str(config))
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    (copy / "theirs.py").write_text(CODE.format(marker=str(marker)))
    names(run, copy / "theirs.py", config)  # the same code beside other files, which it could import
    with pytest.raises(UserError, match="never ran here"):
        load(str(config))


def test_what_a_py_config_names_may_be_opened_later(stranger, tmp_path):
    method, _ = stranger
    fields = tiny().to_dict()
    fields["method"]["name"] = str(method)
    path = tmp_path / "c.py"
    path.write_text(f'"""Mine."""\n\n\ndef get_config(arg=""):\n    return {fields!r}\n')
    resolve(load(str(path))[0])
    (tmp_path / "c.json").write_text(json.dumps(fields))
    assert load(str(tmp_path / "c.json"))[0]["method"]["name"] == str(method)
    assert Path(tmp_path / "cache" / "mae_jax" / "methods_that_ran.txt").is_file()
