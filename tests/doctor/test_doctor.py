"""`mae_jax doctor` on machines that are broken for real: a full disk, wrong versions, missing data, clocks apart."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_runs import config_file, free_port, tiny

from mae_jax.commands.main import main
from mae_jax.core import tree
from mae_jax.core.exits import BAD_INPUT, DONE, FAILED
from mae_jax.doctor import devices, hosts, machine
from mae_jax.doctor import run as needs
from mae_jax.doctor.lines import Line, gathered
from mae_jax.train.build import build

ROOT = Path(__file__).parents[2]
WAIT = 240  # seconds after which a process of a test is killed


def doctor(capsys, *arguments):
    """(status, {what: (state, text and mend)}) of the verb in this process; of several lines the worst."""
    status = main(["doctor", *map(str, arguments)])
    found: dict[str, tuple[str, str]] = {}
    what = ""
    for line in capsys.readouterr().out.splitlines():
        if line[:4].strip() in ("ok", "warn", "bad"):
            what = line[5:20].strip()
            state = max(line[:4].strip(), found.get(what, ("ok", ""))[0], key=["ok", "warn", "bad"].index)
            found[what] = state, found.get(what, ("", ""))[1] + line[20:]
        elif "->" in line:
            found[what] = found[what][0], found[what][1] + line
    return status, found


def test_a_whole_machine(tmp_path, capsys):
    config = config_file(tmp_path / "c.py", tiny())
    status, found = doctor(capsys, "--config", config, "--workdir", tmp_path / "run")
    assert status == DONE and not [x for x in found.values() if x[0] == "bad"]
    assert {"versions", "bundled", "devices", "matmul", "collective", "memory", "mesh", "disk", "data"} <= set(found)
    assert "8 x cpu" in found["devices"][1] and "sum over 8 device(s)" in found["collective"][1]
    assert "data 8" in found["mesh"][1] and "digits" in found["data"][1]
    assert {p.name for p in tmp_path.iterdir()} <= {"c.py", "__pycache__"}  # it leaves nothing
    status, found = doctor(capsys)
    assert status == DONE and "mesh" not in found


def test_the_formula_counts_the_state():
    """A state split over fsdp, with AdamW: three copies of the parameters, in shares; against the arrays."""
    run = build(tiny("mesh.data=2", "mesh.fsdp=4"))
    state = run.init()
    device = jax.devices()[0]
    held = sum(s.data.nbytes for x in jax.tree.leaves(state) for s in x.addressable_shards if s.device == device)
    assert needs.bytes_per_device(run)["state"] == held
    assert needs.state_bytes(run) == sum(x.nbytes for x in jax.tree.leaves(state))
    assert needs.state_bytes(run) > 3 * 4 * tree.size(state["params"])


def test_what_a_config_may_have_wrong(tmp_path, capsys):
    config = config_file(tmp_path / "c.py", tiny())
    status, found = doctor(capsys, "--config", config, "--config.mesh.data=3")
    assert status == FAILED and found["config"][0] == "bad" and "8 device" in found["config"][1]
    (line,) = gathered("data", lambda: needs.data(build(tiny("data.source=folder", "data.path=/no/such/folder"))))
    assert line.state == "bad" and "/no/such/folder" in line.said
    large = build(tiny("method.dim=65536", "method.depth=12", "method.heads=512"))
    (line,) = needs.disk(large, tmp_path / "run")
    assert line.state == "bad" and "4 checkpoints" in line.said and "TB" in line.said and "make room" in line.mend
    assert needs.memory(large)[0].state == "bad"
    assert main(["doctor", "--config", str(config), "--config.mesh.dta=3"]) == BAD_INPUT  # a wrong command, no finding


def test_a_bad_record_is_a_warning(tmp_path, capsys):
    from PIL import Image

    for i in range(40):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    fields = ["data.source=folder", f"data.path={tmp_path}", "data.holdout=0.0", "data.max_bad=0.5"]
    run = build(tiny(*fields, "method.channels=3", "augment.mean=(0.5,0.5,0.5)", "augment.std=(0.3,0.3,0.3)"))
    lines = needs.data(run)
    assert [line.state for line in lines] == ["ok", "warn"] and "1 records" in lines[1].said


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes rights that this process has not")
    yield place
    subprocess.run(["umount", place], check=True, timeout=60)


def test_a_full_disk(small_disk, capsys, tmp_path):
    run = build(tiny())
    assert needs.disk(run, small_disk / "run")[0].state == "ok"
    (small_disk / "litter").write_bytes(bytes(900_000))
    line = needs.disk(run, small_disk / "run")[0]
    assert line.state == "bad" and "make room" in line.mend
    with pytest.raises(OSError, match="No space"), open(small_disk / "more", "wb") as file:
        file.write(bytes(200_000))
    line = needs.disk(run, small_disk / "run")[0]
    assert line.state == "bad" and "cannot be written (No space left on device)" in line.said
    assert machine.compile_cache(str(small_disk / "cache"))[0].state == "warn"
    assert machine.compile_cache(None)[0].state == "warn"


CHILD = """
import json, resource
from mae_jax.doctor import machine
{before}
print(json.dumps([[l.state, l.what, l.said, l.mend] for l in {call}]))
"""


def in_a_child(call, before="", **environment):
    """The lines of a check in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(before=before, call=call)], capture_output=True, text=True, timeout=WAIT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, check=True,
    )  # fmt: skip
    return [Line(*line) for line in json.loads(done.stdout)]


def test_limits_of_the_system():
    lines = in_a_child("machine.limits(0, 10**9)", "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n"
                       "resource.setrlimit(resource.RLIMIT_FSIZE, (10**8, 10**8))")  # fmt: skip
    assert [(line.state, line.mend.split()[1]) for line in lines] == [("bad", "-n"), ("bad", "-f")]
    assert machine.limits(10_000, 0)[0].state == "warn"
    assert machine.shared_memory(4, 1 << 60)[0].state == "bad"


def test_versions_out_of_bounds(tmp_path):
    """A distribution that says it is an old jax, found before the installed one."""
    about = tmp_path / "jax-0.4.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: jax\nVersion: 0.4.1\n")
    lines = in_a_child("machine.versions()", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert any(
        line.state == "bad" and "jax 0.4.1 is outside" in line.said and "pip install 'jax" in line.mend
        for line in lines
    )
    assert any("with jaxlib" in line.said for line in lines)
    assert machine.versions()[0].state == "ok"


def test_a_wrong_product_is_seen():
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
    product = a @ b
    assert devices.deviation(product, a, b) < devices.CLOSE["float32"]
    product[3, 5] += 0.01 * np.abs(product).max()  # one number of a broken unit
    assert devices.deviation(product, a, b) > devices.CLOSE["float32"]
    product[3, 5] = np.nan
    assert not devices.deviation(product, a, b) <= devices.CLOSE["bfloat16"]


def test_a_collective_that_does_not_return():
    assert "did not return within" in devices._within(lambda: signal.pause(), 0.2)
    assert "ZeroDivisionError" in devices._within(lambda: 1 / 0, 5)
    (line,) = gathered("x", lambda: 1 / 0)
    assert line.state == "bad" and "ZeroDivisionError" in line.said


def test_what_hosts_say_of_themselves():
    one = {"host": "a", "pid": 1, "clock": 100.0, "python": "3.11", "config": "", "devices here": 4}
    one |= dict.fromkeys(("mae_jax", "jax", "jaxlib", "numpy"), "1")
    states = lambda *others: [line.state for line in hosts.compared([one, *others])]
    assert states() == ["ok"]
    assert states(one | {"host": "b"}, one | {"host": "c", "clock": 100.5}) == ["ok", "ok"]
    lines = hosts.compared([one, one | {"host": "b"}, one | {"host": "c", "clock": 105.0}])
    assert lines[1].state == "warn" and "c (process 2)" in lines[1].said
    lines = hosts.compared([one, one | {"host": "b", "clock": 40.0, "jax": "2", "devices here": 3}])
    assert [line.state for line in lines] == ["ok", "bad", "bad", "bad"]
    assert "jax: 1 on a (0); 2 on b (1)" in lines[2].said


TWO = """
import sys, time
from mae_jax.commands.main import main
from mae_jax.doctor import hosts
if {number} == 1:
    hosts.clock = lambda: time.time() + 45  # the clock of a machine is not a test's to set
sys.exit(main(["doctor", "--coordinator=localhost:{port}", "--processes=2", "--process-id={number}"]))
"""


def test_two_processes_with_clocks_apart(tmp_path):
    port = free_port()
    flags = "--xla_force_host_platform_device_count=2"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    processes = [
        subprocess.Popen([sys.executable, "-c", TWO.format(number=i, port=port)], env=environment, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        for i in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=WAIT)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert [process.returncode for process in processes] == [FAILED, FAILED], said
    assert "2 processes on 1 host(s)" in said[0] and "the sum over 4 device(s) of 2 process(es) is right" in said[0]
    (clocks,) = [line for line in said[0].splitlines() if line[5:20].strip() == "clocks"]
    assert clocks.startswith("bad") and "45." in clocks or "44." in clocks
    assert "versions" not in said[1]  # process 0 speaks for all
