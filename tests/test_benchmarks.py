"""benchmarks/train_step.py and those that share its parts, as a user starts them."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "train_step.py"
CONFIG = ROOT / "configs" / "mae" / "tiny_digits.py"
TINY = [
    "--config.train.batch=8", "--config.method.dim=16", "--config.method.depth=1", "--config.method.heads=2",
    "--config.method.decoder_dim=8", "--config.method.decoder_depth=1", "--config.method.decoder_heads=2",
]  # fmt: skip
# By the formula of He et al.'s architecture: 16 patches of 4 pixels, 6 of them kept, a class token, widths 16 and 8.
BLOCK = lambda n, d: 24 * n * d**2 + 4 * n**2 * d
FORWARD = 2 * 16 * 4 * 16 + BLOCK(7, 16) + 2 * 7 * 16 * 8 + BLOCK(17, 8) + 2 * 16 * 8 * 4


def start(*arguments: str, script: str = "train_step.py") -> subprocess.CompletedProcess:
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}  # one device
    command = [sys.executable, str(SCRIPT.with_name(script)), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The JSON of two rounds of one step."""
    out = tmp_path_factory.mktemp("benchmark") / "out.json"
    done = start("--config", str(CONFIG), *TINY, "--rounds=2", "--steps=1", "--warmup=1", "--json", str(out))
    assert done.returncode == 0, done.stderr
    assert "images/s" in done.stdout
    return json.loads(out.read_text())


def test_cost_is_the_formula(report):
    assert report["gflop_per_image"] == pytest.approx(3 * FORWARD / 1e9, rel=1e-12)


def test_rates_follow_from_the_seconds(report):
    ours = report["results"]["mae_jax"]
    seconds = sorted(ours["rounds_s"])
    assert len(seconds) == 2 and ours["compile_s"] > 0
    assert ours["images_per_s"]["max"] == pytest.approx(8 / seconds[0])
    assert ours["ms_per_step"]["min"] == pytest.approx(seconds[0] * 1e3)
    assert ours["gflop_per_s"] == pytest.approx(ours["images_per_s"]["median"] * report["gflop_per_image"])
    assert ours["mfu"] is None  # no peak is known of a CPU
    assert 0 < ours["loss"] < 10


def test_report_says_how_to_repeat_it(report):
    assert report["argv"][:2] == ["benchmarks/train_step.py", "--config"]
    assert report["config"]["method"]["dim"] == 16
    assert report["settings"] == {"rounds": 2, "steps": 1, "warmup": 1, "settle": 1}
    assert {"python", "jax", "jaxlib", "flax", "numpy"} <= set(report["versions"])
    assert report["hardware"]["platform"] == "cpu" and report["hardware"]["devices"] == 1
    assert report["hardware"]["cores"] >= 1 and report["hardware"]["cpu"]
    assert report["ratios"] == {}


@pytest.mark.parametrize("script, options", [
    ("memory.py", ["--steps=1"]), ("compile_time.py", []),
    ("scaling.py", ["--devices=1,2", "--rounds=1", "--steps=1", "--warmup=1"]),
])  # fmt: skip
def test_other_reports_say_how_to_repeat_them_too(script, options, tmp_path):
    """A tiny run of each: the command, the machine, versions, the config; and what it is there to find."""
    out = tmp_path / "out.json"
    done = start("--config", str(CONFIG), *TINY, *options, "--json", str(out), script=script)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["argv"][:2] == [f"benchmarks/{script}", "--config"] and {"commit", "time"} <= set(found)
    assert {"python", "mae_jax", "jax", "jaxlib", "flax"} <= set(found["versions"])
    assert found["hardware"]["cpu"] and found["hardware"]["cores"] >= 1 and found["config"]["method"]["dim"] == 16
    if script == "memory.py":
        assert 0 < found["temporaries"] < found["predicted"] and found["arguments"] < found["predicted"]
        assert found["hardware"]["devices"] == 1 and found["settings"] == {"steps": 1} and "predicted" in done.stdout
    elif script == "compile_time.py":
        assert found["target"] == "cpu" and min(found["trace_cpu_s"], found["compile_cpu_s"]) > 0
    else:
        assert [(row["devices"], row["batch"]) for row in found["rows"]] == [(1, 8), (2, 16)]
        assert all(0 < row["loss"] < 10 and row["one_device_ms"] > 0 for row in found["rows"])


@pytest.mark.parametrize("script", ["memory.py", "compile_time.py", "scaling.py"])
def test_a_mistyped_key_is_a_paragraph_everywhere(script):
    done = start("--config", str(CONFIG), "--config.train.bach=8", script=script)
    assert done.returncode == 2 and done.stderr.startswith(f"{script}: unknown config key 'train.bach'"), done.stderr


def test_memory_takes_a_config_that_is_there_and_steps_from_1():
    for options, said in (
        (["--config", "no.py"], "no config file 'no.py'"),
        (["--config", str(CONFIG), "--steps=0"], "1."),
    ):
        done = start(*options, script="memory.py")
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_table_names_a_config_however_it_was_given(report, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import train_step_table

    for argv in (["--config", "a/b16.py"], ["--config=a/b16.py"], ["--config=a/b16.py:small"]):
        assert train_step_table.name_of(report | {"argv": ["x.py", *argv]}) == "b16, batch 8, float32"


def test_table_and_plot(report, tmp_path):
    """Of a record with a contestant that took twice as long: the first is 2 times as fast."""
    ours = report["results"]["mae_jax"]
    slow = ours | {"rounds_s": [2 * s for s in ours["rounds_s"]]}
    (tmp_path / "r.json").write_text(json.dumps(report | {"results": {"mae_jax": ours, "other": slow}}))
    files = str(tmp_path / "r.json"), "--plot", str(tmp_path / "p.png")
    command = [sys.executable, "benchmarks/train_step_table.py", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:4]]
    assert [(row[1], row[5]) for row in rows] == [("mae_jax", "-"), ("other", "2.00 2.00, median 2.00")]
    assert rows[0][0].endswith("batch 8, float32") and (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_help_warns_of_comparing_runs():
    done = start("--help")
    assert done.returncode == 0 and "comparable only within one run" in done.stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.train.bach=8"], "train.batch"),
        (["--rounds=0"], "count from 1"),
        (["--peer=hf", "--config.method.class_token=False"], "class_token"),
    ],
)
def test_what_cannot_run_is_a_paragraph(arguments, said):
    if "--peer=hf" in arguments:
        needs_peer()
    done = start("--config", str(CONFIG), *arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def needs_peer() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        pytest.skip("needs torch and transformers: pip install 'mae_jax[compare]'")


def turns_of_two(monkeypatch, failing="", **options):
    """measure() with two contestants that only write down what is asked of them -> (results, what was asked)."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import train_step

    asked = []

    class Contestant:
        parameters, settings = 1, {}

        def __init__(self, name):
            self.name = name

        def advance(self):
            if self.name == failing:
                raise NotImplementedError("no such kernel")
            asked.append(f"{self.name} step")

        release = lambda self: asked.append(f"{self.name} released")
        wait, memory_gb = lambda self: float(len(asked)), lambda self: None

    return train_step.measure([Contestant("a"), Contestant("b")], rounds=2, steps=2, warmup=1, **options), asked


def test_a_turn_begins_with_a_step_that_is_not_timed(monkeypatch):
    results, asked = turns_of_two(monkeypatch)
    begin, turn = ["step"] * 2, ["step"] * 3
    order = [("a", begin), ("b", begin), ("a", turn), ("b", turn), ("a", turn), ("b", turn)]
    assert asked == [f"{name} {did}" for name, what in order for did in what]
    assert [len(results[name]["rounds_s"]) for name in "ab"] == [2, 2]


def test_only_one_holds_its_state(monkeypatch):
    results, asked = turns_of_two(monkeypatch, settle=0, release=True)
    turn = ["step", "step", "released"]
    assert asked == [f"{name} {did}" for _ in range(3) for name in "ab" for did in turn]
    assert results["a"]["loss"] < results["b"]["loss"]  # read before the state is given back


def test_one_that_cannot_run_does_not_take_the_others_with_it(monkeypatch, capsys):
    results, asked = turns_of_two(monkeypatch, failing="b")
    assert set(results) == {"a"} and len(results["a"]["rounds_s"]) == 2
    assert "b: left out, it cannot run: NotImplementedError: no such kernel" in capsys.readouterr().out
    with pytest.raises(NotImplementedError):
        turns_of_two(monkeypatch, failing="a")


def test_gpu_kernels_against_what_they_replace(monkeypatch, capsys, tmp_path):
    """Interpreted, and XLA in cuDNN's place: the rows are there. On a CPU it is refused."""
    import jax
    from jax.experimental import pallas as pl

    from mae_jax.nets import attention_kinds

    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_kernels

    assert gpu_kernels.main([]) == 2 and "jax is on cpu" in capsys.readouterr().err
    assert gpu_kernels.main(["--rounds=0"]) == 2 and "count from 1" in capsys.readouterr().err
    monkeypatch.setattr("mae_jax.core.chips.family_of", lambda device: "gpu")
    monkeypatch.setattr(pl, "pallas_call", functools.partial(pl.pallas_call, interpret=True))
    monkeypatch.setitem(attention_kinds.FUNCTIONS, "cudnn", attention_kinds.FUNCTIONS["xla"])
    monkeypatch.setattr(gpu_kernels, "NORMS", ((2, 3, 8),))
    monkeypatch.setattr(gpu_kernels, "ATTENTION", ((2, 5, 2, 8),))
    kernels = gpu_kernels.contestants()
    for who in kernels.values():
        (theirs, ours) = who.values()
        for a, b in zip(jax.tree.leaves([f() for f in theirs]), jax.tree.leaves([f() for f in ours])):
            assert abs(a.astype(float) - b.astype(float)).max() < 0.1
    out = tmp_path / "kernels.json"
    assert gpu_kernels.main(["--rounds=1", "--steps=1", "--warmup=1", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["results"]
    assert [set(row) for row in rows.values()] == [{"xla", "triton"}, {"cudnn", "triton"}]


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--release"]])
def test_peer_is_of_the_same_size_and_takes_turns(tmp_path, more):
    needs_peer()
    out = tmp_path / "out.json"
    done = start("--config", str(CONFIG), *TINY, "--config.train.microbatches=2", "--rounds=2", "--steps=1",
                 "--peer=hf", "--peer-mode=eager", "--json", str(out), *more)  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    ours, peer = report["results"]["mae_jax"], report["results"]["hf eager"]
    assert ours["parameters"] == peer["parameters"]
    assert peer["settings"]["attention"] == "sdpa"
    turns = [line.split(":")[1].strip() for line in done.stdout.splitlines() if line.startswith("round")]
    assert turns == ["mae_jax", "hf eager"] * 2
    each = [b / a for a, b in zip(ours["rounds_s"], peer["rounds_s"])]
    assert report["ratios"]["hf eager"]["rounds"] == pytest.approx(each)
    assert {"torch", "transformers"} <= set(report["versions"])
