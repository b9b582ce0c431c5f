"""The command line: help, list, and one paragraph with status 2 for whatever a user can get wrong."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from tiny_runs import config_file, tiny

from mae_jax.commands.main import VERBS, main, module
from mae_jax.commands.options import split_overrides

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "train": (
        "--config FILE[:ARG]",
        "--workdir DIR",
        "--debug [STEPS]",
        "--config.SECTION.KEY=VALUE",
        "--coordinator",
        "--process-id",
    ),
    "compile": ("--config FILE[:ARG]", "--topology NAME", "--shardings", "--fit", "--json FILE"),
    "finetune": ("--workdir DIR", "--weights FILE", "--out DIR", "--scratch", "--config FILE[:ARG]", "--step N"),
    "evaluate": (
        "--workdir DIR",
        "--protocol P[,P...]",
        "--weights FILE",
        "--step N",
        "--output",
        "--cache",
        "--config.SECTION.KEY=VALUE",
    ),
    "segment": ("--workdir DIR", "--weights FILE", "--out DIR", "--scratch", "--config FILE[:ARG]", "--step N"),
    "reconstruct": (
        "--workdir DIR",
        "--weights FILE",
        "IMAGE",
        "--output",
        "--count N",
        "--draw I",
        "--config.SECTION.KEY=VALUE",
    ),
    "draw": ("KIND", "--workdir DIR", "--weights FILE", "--ratios R,R", "--query Q", "--foreground T", "--split"),
    "plot": ("RUN", "--metric NAME", "--smooth N", "--log AXES", "--labels A,B", "--output FILE.png"),
    "convert": ("SRC", "DST", "--list", "--to FORMAT", "--as", "--norm-pix", "--heads N", "--name NAME"),
    "embed": ("--workdir DIR", "--weights F", "--source SRC", "--out FILE", "--pool HOW", "--tokens", "--batch N"),
    "doctor": ("--config FILE[:ARG]", "--workdir DIR", "--coordinator", "exit status"),
    "new": ("NAME", "--dir DIR", "--in-repo"),
    "checkpoint": ("WORKDIR", "list", "verify", "prune", "--step N", "--keep N", "--yes"),
    "replay": ("WORKDIR", "STEP", "--weights FILE|DIR", "--output FILE.json", "--config.SECTION.KEY=VALUE"),
    "list": ("--configs DIR",),
    "parity": ("FILE.npz", "--json", "--tolerance T"),
    "data": ("--config FILE[:ARG]", "--output FILE.png", "--moments N", "--json FILE.json"),
    "prepare": ("SRC", "DST", "--format F", "--short-side N", "--dry-run", "--max-bad SHARE"),
}


def run(capsys, *argv):
    """(exit status, stdout, stderr) of a command line."""
    try:
        status = main([str(a) for a in argv])
    except SystemExit as stop:  # argparse
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def devices_untouched(monkeypatch):
    """Bad input must be refused before any device work."""
    monkeypatch.setattr(jax, "devices", lambda *_: pytest.fail("devices were asked for"))


@pytest.fixture
def config(tmp_path):
    return config_file(tmp_path / "tiny.py", tiny())


# Help and list --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [("--help",), ()])
def test_main_help(capsys, argv):
    status, out, err = run(capsys, *argv)
    assert status == 0 and not err
    for verb in VERBS:
        assert verb in out and module(verb).HELP.split()[0] in out


def test_every_verb_is_tested():
    assert set(OPTIONS) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_verb_help(capsys, verb):
    status, out, err = run(capsys, verb, "--help")
    assert status == 0 and not err and max(map(len, out.splitlines())) <= 120
    plain = " ".join(out.split())
    for option in OPTIONS[verb]:
        assert option in plain, option


def test_version(capsys):
    import mae_jax

    assert run(capsys, "--version")[:2] == (0, f"mae_jax {mae_jax.__version__}\n")


def test_help_needs_no_jax():
    """`mae_jax --help` answers at once: nothing heavy is imported."""
    heavy = "sys.exit(1 if {'jax', 'orbax', 'grain', 'matplotlib', 'sklearn'} & set(sys.modules) else 0)"
    code = f"import sys; from mae_jax.commands.main import main; main([]); {heavy}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr


def test_list_shows_every_config_with_its_title(capsys, monkeypatch):
    import ast

    monkeypatch.chdir(ROOT)
    status, out, _ = run(capsys, "list")
    assert status == 0 and "/_imagenet.py" not in out
    files = [p for p in Path("configs").rglob("*.py") if not p.name.startswith("_")]
    for file in files:
        title = ast.get_docstring(ast.parse(file.read_text())).split("\n")[0]
        assert any(str(file) in line and title in line for line in out.split("\n"))
    for word in ("mae", "digits", "npz", "data.path", *VERBS, "Masked Autoencoders Are Scalable Vision Learners"):
        assert word in out


def test_list_without_configs(capsys, tmp_path):
    status, out, _ = run(capsys, "list", "--configs", tmp_path)
    assert status == 0 and "no config files below" in out


# What a user can get wrong --------------------------------------------------------------------------------------------

OVERRIDES = [
    ("optim.learning_rat=1", "Did you mean 'optim.learning_rate'?"),
    ("learning_rate=1", "Did you mean 'optim.learning_rate'?"),
    ("optm.learning_rate=1", "Did you mean 'optim.learning_rate'?"),
    ("method.dims=3", "Did you mean 'method.dim'?"),
    ("data.split=train", "unknown config key 'data.split'"),
    ("train.steps=many", "'train.steps' is 'many' (str); expected int"),
    ("train.steps=1.5", "'train.steps' is 1.5 (float); expected int"),
    ("train.steps=True", "'train.steps' is True (bool); expected int"),
    ("train.steps=0", "train.steps is 0"),
    ("train.precision=fp16", "expected Literal['float32', 'bfloat16']"),
    ("train.microbatches=3", "train.microbatches=3 does not divide"),
    ("augment.flip=1", "'augment.flip' is 1 (int); expected bool"),
    ("augment.mean=0.5", "expected tuple[float, ...]"),
    ("augment.mean=(0.5,0.5)", "augment.mean has 2 number(s)"),
    ("augment.std=(0,)", "augment.std"),
    ("eval.protocols=knn", "'eval.protocols' is 'knn' (str); expected tuple[str, ...]"),
    ("optim.name=adamm", "Did you mean 'adam'?"),
    ("optim.warmup=13", "longer than train.steps"),
    ("method.name=maee", "Did you mean 'mae'?"),
    ("data.source=digit", "Did you mean 'digits'?"),
    ("method.patch=3", "3"),
    ("method.mask_ratio=0.99", "leaves no visible token"),
    ("method.mask_ratio=1.5", "mask ratio 1.5"),
    ("method.mask_ratio=0.0", "hides none"),
    ("method.heads=3", "multiple of method.heads=3"),
    ("method.channels=3", "augment.mean has 1 number(s)"),
    ("optim.decay_rules=(('kernel', 1.0),)", "no weight-decay rule covers"),
]


@pytest.mark.parametrize("override, message", OVERRIDES)
def test_a_wrong_override_is_one_paragraph(capsys, config, tmp_path, devices_untouched, override, message):
    status, out, err = run(capsys, "train", "--config", config, "--workdir", tmp_path / "run", f"--config.{override}")
    assert status == 2 and not out
    assert message in err and "Traceback" not in err and len(err.strip().split("\n")) == 1
    assert err.startswith("mae_jax train: ") and not (tmp_path / "run").exists()


def test_a_mesh_that_does_not_fit(capsys, config, tmp_path):
    refused = (("mesh.data=3", "does not fit 8 device(s)"), ("train.batch=12", "choose a multiple of 8"))
    for override, message in refused:
        status, _, err = run(capsys, "train", "--config", config, "--workdir", tmp_path / "x", f"--config.{override}")
        assert status == 2 and message in err and not (tmp_path / "x").exists()


FILES = {
    "no_function.py": ("x = 1\n", "has no function get_config"),
    "no_method.py": ("def get_config(arg=''):\n    return {}\n", "names no method"),
    "bad_section.py": ("def get_config(arg=''):\n    return {'optimm': {}}\n", "Did you mean 'optim'?"),
    "flat.py": ("def get_config(arg=''):\n    return {'method': {'name': 'mae'}, 'train': 5}\n", "'train'"),
    "bad_key.py": (
        "def get_config(arg=''):\n    return {'method': {'name': 'mae'}, 'train': {'step': 5}}\n",
        "Did you mean 'train.steps'?",
    ),
    "other_method.py": ("def get_config(arg=''):\n    return {'method': {'name': 3}}\n", "method"),
    "list.py": ("def get_config(arg=''):\n    return [1]\n", "get_config"),
    "argument.py:x": ("def get_config(arg=''):\n    return {'steps': int(arg)}\n", "argument 'x'"),
    "none.py:x": ("def get_config():\n    return {}\n", "argument 'x'"),
    "syntax.py": ("def get_config(:\n", "line 1"),
    "notes.txt": ("hello", "not a Python file"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_config_file_is_one_paragraph(capsys, tmp_path, devices_untouched, name):
    text, message = FILES[name]
    (tmp_path / name.partition(":")[0]).write_text(text)
    status, _, err = run(capsys, "train", "--config", tmp_path / name, "--workdir", tmp_path / "run")
    assert status == 2 and message in err and "Traceback" not in err and len(err.strip().split("\n")) == 1, err


def test_a_missing_config_names_the_nearest(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    status, _, err = run(capsys, "train", "--config", "configs/mae/tiny_digit.py", "--workdir", tmp_path / "run")
    assert status == 2 and "Did you mean 'configs/mae/tiny_digits.py'?" in err


@pytest.mark.parametrize(
    "argv, message",
    [
        (("trian",), "Did you mean 'train'?"),
        (("list", "--config.train.steps=1"), "reads no config"),
        (("train", "--workdir", "x"), "--config"),
        (("train", "--config", "x.py"), "--workdir"),
        (("train", "--config", "x.py", "--workdir", "x", "--config.train.steps"), "has no value"),
        (("evaluate", "--workdir", "no/such/run"), "is no run"),
        (("reconstruct", "--workdir", "no/such/run"), "is no run"),
        (("convert",), "what to read"),
        (("convert", "no/such/file.pth"), "no weights at"),
        (("convert", "mae_vit_b16"), "Get it from https://"),
        (("convert", "a.pth", "--mean", "0.5"), "give both"),
        (("convert", "a.pth", "--image-size", "1", "2", "3"), "rows and columns"),
        (("convert", "a.pth", "--step", "3"), "SRC is none"),
        (("parity",), "FILE.npz"),
    ],
)
def test_a_wrong_command_line(capsys, devices_untouched, argv, message):
    status, _, err = run(capsys, *argv)
    assert status == 2 and message in err and "Traceback" not in err


def test_incomplete_processes(capsys, config, tmp_path, devices_untouched):
    argv = ("train", "--config", config, "--workdir", tmp_path / "run", "--coordinator", "127.0.0.1:1")
    status, _, err = run(capsys, *argv)
    assert status == 2 and "belong together" in err


def test_folder_data_that_are_not_there(capsys, tmp_path):
    recipe = ROOT / "configs/mae/vit_s16_imagenet.py"
    small = ("--config.method.depth=1", "--config.method.decoder_depth=1", "--config.train.batch=8",
             "--config.eval.batch=8")  # fmt: skip
    for data, message in (((), "data.path"), ((f"--config.data.path={tmp_path / 'none'}",), "none")):
        status, _, err = run(capsys, "train", "--config", recipe, "--workdir", tmp_path / "run", *small, *data)
        assert status == 2 and message in err and len(err.strip().split("\n")) == 1


def test_overrides_with_and_without_equals_sign():
    argv = ["train", "--config", "a.py", "--config.train.steps", "5", "--config.data.path=/x=y", "--workdir", "w"]
    rest, overrides = split_overrides(argv)
    assert rest == ["train", "--config", "a.py", "--workdir", "w"]
    assert overrides == ["train.steps=5", "data.path=/x=y"]
