"""`mae_jax compile`: bars on collectives, exit statuses, and every config of the repository."""

import dataclasses
import functools
import importlib.util
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tiny_runs import config_file, tiny

from mae_jax.ahead import program, report, step
from mae_jax.ahead.collectives import KINDS, by_masking, collectives, totals
from mae_jax.ahead.topology import topology
from mae_jax.commands.main import main
from mae_jax.core import tree
from mae_jax.core.mesh import make_mesh
from mae_jax.tokens.gather import SCOPE

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.py") if not p.name.startswith("_"))
QUICK = ("configs/mae/tiny_segment.py", "configs/graphmae/tiny_blocks.py")  # compiled
KINDS_OF = (  # laid out: video, parts of points, spectrograms, a teacher
    "configs/videomaev2/vit_b16.py", "configs/pointmae/segment_shapenetpart.py", "configs/birdmae/tiny_chirps.py",
    "configs/maskalign/tiny_digits.py",
)  # fmt: skip
libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(config_file(tmp_path_factory.mktemp("compile") / "c.py", tiny("train.batch=32")))


@functools.cache
def figures(file: str, *overrides: str) -> program.Figures:
    """Compiled once per settings."""
    return program.compiled(step.ask(file, overrides), topology("local"))


def test_the_report_of_a_step(file, tmp_path, capsys):
    out = tmp_path / "figures.json"
    assert main(["compile", "--config", file, "--json", str(out)]) == 0
    text, numbers = capsys.readouterr().out, json.loads(out.read_text())
    params = numbers["state"]["parameters"]
    assert "all-reduced: 1.000 x the parameters" in text and "verdict: fits" in text
    assert "caused by masking or restoring: none" in text
    assert numbers["memory"]["arguments"] >= 3 * params and numbers["fits"] is True
    # The formula of He et al.: 16 patches of 4 numbers, 6 kept, a class token, widths 16 and 8; 4 rows per device.
    block = lambda n, d: 24 * n * d**2 + 4 * n**2 * d
    forward = 2 * 16 * 4 * 16 + 2 * block(7, 16) + 2 * 7 * 16 * 8 + block(17, 8) + 2 * 16 * 8 * 4
    assert numbers["formula_flops"] == 3 * forward * 4
    assert sum(c["bytes"] for c in numbers["collectives"]) == pytest.approx(params, rel=0.01)


def test_status_3_where_it_does_not_fit(file, monkeypatch, capsys):
    from mae_jax.ahead import topology as devices

    small = dataclasses.replace(topology("local"), memory=1e5)
    monkeypatch.setattr(devices, "topology", lambda *_: small)
    assert main(["compile", "--config", file]) == 3
    out = capsys.readouterr().out
    assert re.search(r"does NOT fit: too large by +[\d.]+ MiB per device", out) and "--config.mesh.remat=dots" in out


MICROBATCHES = ("train.microbatches=4", "mesh.scan=True", "mesh.remat=full")


def test_microbatches_sum_the_gradient_once(file):
    found = figures(file, *MICROBATCHES)
    size = totals(found.collectives)["all-reduce", "data"][1]
    assert size == pytest.approx(4 * tree.size(found.run.shapes["params"]), rel=0.01)
    assert not by_masking(found.collectives)


def test_fsdp_gathers_and_scatters(file):
    """What fsdp splits is gathered and scattered, never reduced whole; these networks' vectors are reduced."""
    found = figures(file, "mesh.fsdp=8")
    size = {kind: sum(c.bytes for c in found.collectives if c.kind == kind) for kind in KINDS}
    leaves = jax.tree.leaves(found.run.shapes["params"])
    split = 4 * sum(s.size for s in leaves if any(s.sharding.spec))
    whole = 4 * sum(s.size for s in leaves) - split
    assert size["reduce-scatter"] == pytest.approx(split, rel=0.01) and size["all-gather"] >= split
    assert size["all-reduce"] <= whole + split / 4  # besides the vectors only norms, a number per part
    assert not by_masking(found.collectives)


def test_a_collective_that_masking_causes_is_told():
    """x[arange, ids] of a split batch gathers it; under masking's name it is seen."""
    mesh = make_mesh()
    lies = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    @jax.named_scope(SCOPE)
    def take(x, ids):
        return x[jnp.arange(len(x))[:, None], ids]

    at = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=lies)
    program_ = jax.jit(take, out_shardings=lies).lower(at((16, 8, 4), jnp.float32), at((16, 3), jnp.int32)).compile()
    assert by_masking(collectives(program_))


def test_shardings_print_a_table_and_compile_nothing(file, capsys):
    assert main(["compile", "--config", file, "--shardings", "--config.mesh.fsdp=8"]) == 0
    out = capsys.readouterr().out
    assert "params/encoder/blocks/0-1/attn/qkv/kernel" in out and "fsdp" in out and "bytes per device" in out


def test_labels_that_only_data_know_are_assumed_and_said():
    small = ["method.depth=1"]
    asked = step.ask("configs/mae/finetune_b16_imagenet.py", small)
    assert asked.task == "finetune" and asked.config.transfer.classes == 1000
    assert "1000 classes" in asked.notes[0]
    stated = step.ask("configs/mae/finetune_b16_imagenet.py", [*small, "transfer.classes=7"])
    assert stated.config.transfer.classes == 7 and not stated.notes


def small(config: str) -> list[str]:
    """Overrides with which a config's step is compiled for eight devices in a test: a batch of eight."""
    asked = step.ask(config)
    if asked.config.train.batch == 1:
        return []
    own = "transfer.segment_batch" if asked.task in ("segment", "parts") else "transfer.batch"
    batch = [f"{own}=8"] if asked.task != "none" else ["train.batch=8"]
    return [*batch, "train.microbatches=1", "eval.batch=8"]


@pytest.mark.parametrize("config", QUICK)
def test_tiny_configs_compile(config):
    found = program.compiled(step.ask(config, small(config)), topology("local"))
    assert found.fits and "verdict: fits" in report.text(config, found)


@pytest.mark.parametrize("config", [pytest.param(c, marks=() if c in KINDS_OF else pytest.mark.slow) for c in CONFIGS])
def test_every_config_is_understood(config):
    """Its run is laid out for eight devices without data, weights or teachers' files."""
    run = step.make_run(step.ask(config, small(config)), topology("local").devices)
    assert program.state_bytes(run)["batch"] > 0


@libtpu
@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_compiles_for_a_slice(config):
    overrides = [*small(config), "mesh.scan=True", "mesh.remat=full"]
    found = program.compiled(step.ask(config, overrides), topology("v5e:2x4"))
    assert found.memory is not None and report.text(config, found)
