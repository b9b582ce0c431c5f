"""core/huge_pages.py and core/drivers.py: when a process starts again, as what, and what that gives."""

import os
import subprocess
import sys
import textwrap

import pytest

from mae_jax.core import drivers, huge_pages

pytestmark = pytest.mark.skipif(huge_pages.glibc() < huge_pages.SINCE, reason="needs Linux with glibc 2.35")
MADVISE = huge_pages.on_request()


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """A Linux host without accelerators whose kernel gives huge pages to who asks."""
    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "MODE", tmp_path / "enabled")
    monkeypatch.setattr(drivers, "NODES", {"gpu": (str(tmp_path / "nvidia[0-9]*"),)})
    monkeypatch.setattr(sys, "gettrace", lambda: None)  # coverage
    return tmp_path


def test_wanted_on_a_cpu(cpu):
    assert huge_pages.wanted()


def test_an_accelerator_is_left_alone_unless_jax_is_told_to(cpu, monkeypatch):
    (cpu / "nvidia0").touch()
    assert drivers.present() == ["gpu"] and not huge_pages.wanted()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert huge_pages.wanted()


@pytest.mark.parametrize("mode", ["[always] madvise never", "always madvise [never]", None])
def test_of_no_use_where_the_kernel_gives_them_to_all_or_none(cpu, mode):
    (cpu / "enabled").unlink() if mode is None else (cpu / "enabled").write_text(mode)
    assert not huge_pages.wanted()


def test_the_users_own_choice_stays(cpu, monkeypatch):
    monkeypatch.setenv(huge_pages.VARIABLE, "")
    assert not huge_pages.wanted()


def test_other_c_libraries(cpu, monkeypatch):
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.31")
    assert huge_pages.glibc() == (2, 31) and not huge_pages.wanted()
    monkeypatch.setattr(os, "confstr", lambda name: None)
    assert huge_pages.glibc() == () and not huge_pages.wanted()


CODE = """
    import ctypes, os, pathlib, re, sys
    from mae_jax.core import huge_pages

    print(os.getpid(), *sys.argv[1:], flush=True)
    huge_pages.MODE = pathlib.Path(os.environ["MODE"])
    huge_pages.start_again()
    size, libc = 256 << 20, ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    ctypes.memset(libc.malloc(ctypes.c_size_t(size)), 1, size)
    rollup = pathlib.Path("/proc/self/smaps_rollup").read_text()
    print(int(re.search(r"AnonHugePages:\\s+(\\d+) kB", rollup)[1]) * 1024 / size)
"""


def lines(mode, **environment):
    clean = {k: v for k, v in os.environ.items() if k != huge_pages.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CODE), "one", "two words"], capture_output=True, text=True, timeout=60,
        env=clean | {"MODE": str(mode), "JAX_PLATFORMS": "cpu"} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_same_process_with_the_same_arguments(cpu):
    first, again, share = lines(cpu / "enabled")
    assert first == again and first.endswith(" one two words")
    assert float(share) > 0.5 or not MADVISE  # of a large block lies in huge pages


def test_once_is_enough(cpu):
    given = lines(cpu / "enabled", **{huge_pages.VARIABLE: huge_pages.VALUE})
    assert len(given) == 2  # started once


def test_a_block_lies_in_small_pages_without(cpu):
    (cpu / "enabled").write_text("[never]")
    _, share = lines(cpu / "enabled")
    assert float(share) < 0.5 or not MADVISE


@pytest.mark.skipif(not MADVISE, reason="the kernel gives huge pages to all, or to none")
@pytest.mark.parametrize(("verb", "starts"), [("train", 2), ("list", 1)])
def test_the_command_starts_again_where_it_will_compute(tmp_path, verb, starts):
    """Counted by a module that Python imports whenever it starts."""
    (tmp_path / "sitecustomize.py").write_text(f"open({str(tmp_path / 'starts')!r}, 'a').write('x')")
    clean = {k: v for k, v in os.environ.items() if k != huge_pages.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-m", "mae_jax", verb, "--help"], capture_output=True, text=True, timeout=60,
        env=clean | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0 and f"mae_jax {verb}" in done.stdout, done.stderr
    assert (tmp_path / "starts").read_text() == "x" * starts
