"""Readers on mutated files: only errors of our own kinds, no hang, bounded memory. Seconds here, minutes in `slow`.

Mutations are our own and seeded (what broke is named by its seed): good files of every kind, in which bytes, lengths
and pieces are replaced, cut and repeated, so that they get past the first checks as random bytes never would.
"""

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
QUICK, LONG = 4.0, 240.0  # seconds of processor time


@pytest.mark.parametrize("seconds", [QUICK, pytest.param(LONG, marks=pytest.mark.slow)])
def test_only_errors_of_our_own_kinds(tmp_path, seconds):
    """In a child: a crash of a C library, or memory beyond the bound, must not end the tests."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XLA")}
    environment |= {
        "PYTHONPATH": f"{ROOT}:{HERE}:{ROOT / 'tests'}",
        "JAX_PLATFORMS": "cpu",
        "OPENBLAS_NUM_THREADS": "1",
    }
    seed = 0 if seconds == QUICK else int(time.time())
    done = subprocess.run(
        [sys.executable, HERE / "fuzzer.py", str(tmp_path), str(seconds), str(seed)], env=environment, text=True,
        capture_output=True, timeout=60 + 20 * seconds, check=False,
    )  # fmt: skip
    last = (tmp_path / "last").read_text() if (tmp_path / "last").is_file() else "none"
    assert done.returncode == 0, f"seed {seed}, last {last}\n{done.stderr[-3000:]}"
    report = json.loads(done.stdout.splitlines()[-1])
    assert not report["wrong"], report["wrong"]
    assert set(report["tried"]) == set(report["kinds"]) and min(report["tried"].values()) >= 10
    assert report["refused"] > 0.3 * sum(report["tried"].values())  # the mutations do break files
    assert report["slowest"][0] < 10, report["slowest"]


def test_a_mutation_is_a_function_of_its_seed():
    from fuzzer import mutated

    data = struct.pack("<64L", *range(64))
    assert mutated(data, 7) == mutated(data, 7) != mutated(data, 8)
    assert len({mutated(data, seed) for seed in range(50)}) > 45
