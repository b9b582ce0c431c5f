"""Slices that are not there, and what is said without the TPU's compiler."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from mae_jax.ahead import program
from mae_jax.ahead.topology import topology, uncached
from mae_jax.core.errors import UserError

ROOT = Path(__file__).parents[2]
libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


@libtpu
@pytest.mark.parametrize(
    ("name", "count", "kind", "gib"),
    [
        ("v5e:16x16", 256, "TPU v5 lite", 16), ("v5e:1x1", 1, "TPU v5 lite", 16), ("v5e:1x2", 2, "TPU v5 lite", 16),
        ("v5e", 8, "TPU v5 lite", 16), ("v4", 4, "TPU v4", 32), ("v4:4x4x4", 64, "TPU v4", 32),
        ("v5p:2x2x4", 16, "TPU v5", 95), ("v6e:8x8", 64, "TPU v6 lite", 32), ("v3:4x4", 32, "TPU v3", 16),
    ],
)  # fmt: skip
def test_slices(name, count, kind, gib):
    """A v4 chip is one device (megacore), a v3 chip two; XLA_FLAGS of these tests' CPU must not reach libtpu."""
    flags = os.environ["XLA_FLAGS"]
    found = topology(name)
    assert (len(found.devices), found.kind, found.memory) == (count, kind, gib * 2**30)
    assert os.environ["XLA_FLAGS"] == flags
    here = jax.ShapeDtypeStruct((), jnp.float32, sharding=SingleDeviceSharding(found.devices[0]))
    with uncached():
        jax.jit(lambda x: x + 1).lower(here).compile()  # read now, an unknown flag would end this process


@libtpu
def test_several_slices_and_links():
    found = topology("v5e:4x4", slices=2)
    assert len(found.devices) == 32 and found.name == "2 x v5e:4x4"
    assert (found.slices((0, 1)), found.slices((0, 16))) == (1, 2)
    assert (found.links((0, 1)), found.links(tuple(range(16)))) == (0.5, 1.0)


@libtpu
def test_what_libtpu_refuses():
    with pytest.raises(UserError, match="libtpu does not take it"):
        topology("v5e:5x7")


@pytest.mark.parametrize(
    ("name", "said"),
    [("v9:2x2", "no such slice"), ("v5e:banana", "no such slice"), ("v5e:4", "2 axes"), ("v5e:0x4", "2 axes")],
)
def test_names_that_are_none(name, said):
    with pytest.raises(UserError, match=said):
        topology(name)


def test_local_is_this_machine():
    found = topology("local")
    assert len(found.devices) == 8 and found.kind == "cpu" and not found.ahead
    assert found.memory is not None and found.memory > 1e8


def test_without_libtpu_one_line_says_which_extra():
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'libtpu' else find(name, *a)\n"
        "from mae_jax.commands.main import main\n"
        "raise SystemExit(main(['compile', '--config', 'configs/mae/tiny_digits.py', '--topology', 'v5e:4x4']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install 'mae_jax[compile]'" in done.stderr


@pytest.mark.parametrize(
    ("said", "wanted", "there"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (68.10G) exceeds available HBM (15.75G). HLO module: jit_step.",
            68.10 * 2**30, 15.75 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.15G "
            "of 15.75G hbm. Exceeded hbm capacity by 4.40G.",
            20.15 * 2**30, 15.75 * 2**30,
        ),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1234 bytes.", 1234, None),
        ("RESOURCE_EXHAUSTED: something new", None, None),
    ],
)  # fmt: skip
def test_what_a_refusal_says(said, wanted, there):
    """The first is libtpu 0.0.52's, word for word; the second an older one's."""
    _, found, limit = program.exhausted(said)
    assert (found, limit) == (pytest.approx(wanted) if wanted else None, pytest.approx(there) if there else None)


def test_other_errors_are_no_refusals():
    assert program.exhausted("INVALID_ARGUMENT: something else") is None
