"""launch/local.py: what becomes of the processes, their output, their signals and their statuses; and a real run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import config_file, metrics, tiny

from mae_jax.core import exits

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "launch/local.py"
LIMIT = 300  # seconds until a test gives a process up
# What each process does is the text after its number in the arguments: "0:..." for process 0.
CHILD = """
import os, signal, sys, time
number = sys.argv[sys.argv.index("--process-id") + 1] if "--process-id" in sys.argv else "0"
me = dict(a.split(":", 1) for a in sys.argv[1:] if a[1:2] == ":")
exec(me.get(number, me.get("*", "pass")))
"""


def local(*options, child=(), **environment):
    """local.py with processes that run pieces of Python -> a Popen."""
    command = [sys.executable, str(LOCAL), *options, "--", sys.executable, "-c", CHILD, *child]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | environment, start_new_session=True)  # fmt: skip


def finish(process):
    """(status, output, errors); nothing is left behind."""
    try:
        out, err = process.communicate(timeout=LIMIT)
        return process.returncode, out, err
    finally:
        kill(process)


def kill(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.mark.parametrize(
    "first, second, status",
    [
        ("pass", "pass", exits.DONE),
        ("sys.exit(1)", "time.sleep(60)", exits.FAILED),
        ("sys.exit(2)", "sys.exit(75)", exits.BAD_INPUT),
        ("sys.exit(75)", "sys.exit(4)", exits.GIVEN_UP),
        ("sys.exit(143)", "sys.exit(143)", exits.INTERRUPTED),
        ("os.kill(os.getpid(), 9)", "time.sleep(60)", exits.RESTART),  # lost, as to the kernel's want of memory
        ("os.kill(os.getpid(), 9)", "time.sleep(0.3); sys.exit(75)", exits.RESTART),
    ],
)
def test_the_status_is_that_of_the_run(first, second, status):
    begun = time.monotonic()
    found, _, said = finish(local("-n", "2", "--grace", "1", child=(f"0:{first}", f"1:{second}")))
    assert found == status, said
    assert time.monotonic() - begun < 50  # nobody waited for the one that sleeps


def test_one_that_does_not_hear_is_killed_with_its_helpers(tmp_path):
    """A process that ignores SIGTERM, and a child of its own: both are gone at the end."""
    write = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))"
    helper = f"import subprocess; p = subprocess.Popen(['sleep', '300']); {write}"
    deaf = f"1:signal.signal(signal.SIGTERM, signal.SIG_IGN); {helper}; time.sleep(300)"
    waits = f"0:\nwhile not os.path.exists({str(tmp_path / 'pid')!r}): time.sleep(0.05)\nsys.exit(1)"
    found, _, said = finish(local("-n", "2", "--grace", "0.3", child=(waits, deaf)))
    assert found == 1 and "process 0 ended with status 1" in said
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until, "the helper lives"
        time.sleep(0.05)


def test_lines_are_marked_and_arguments_arrive_as_they_were():
    odd = ["a b", "it's", '"', "$HOME", "*", "", "new\nline", "\\"]
    code = "*:print(sys.argv[-14:-6] if number == '0' else 'one', flush=True); print('bad', file=sys.stderr)"
    found, out, err = finish(local("-n", "2", child=(code, *odd)))
    assert found == 0, err
    assert sorted(out.splitlines()) == [f"[0] {odd}", "[1] one"] and sorted(err.splitlines()) == ["[0] bad", "[1] bad"]


def test_a_reader_that_goes_away_stops_nobody():
    """As with `| head -1`: more than a pipe holds is printed after that, and the status is the process's."""
    code = "0:[print('x' * 100, flush=True) for _ in range(20000)]; sys.exit(3)"
    process = local("-n", "1", child=(code,))
    try:
        assert process.stdout.readline().startswith("[0] x")
        process.stdout.close()
        assert process.wait(LIMIT) == 3
    finally:
        kill(process)
        process.stderr.close()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
def test_the_processes_save_when_it_is_killed(tmp_path):
    code = (f"*:f = lambda n, _: (open({str(tmp_path)!r} + '/saved' + number, 'w').close(), os._exit(143)); "
            "signal.signal(15, f); print('ready', flush=True); time.sleep(300)")  # fmt: skip
    process = local("-n", "2", child=(code,))
    try:
        assert sorted(process.stdout.readline() for _ in range(2)) == ["[0] ready\n", "[1] ready\n"]
    finally:
        process.kill()
        process.communicate(timeout=LIMIT)
    until = time.monotonic() + 60
    while not all((tmp_path / f"saved{i}").exists() for i in range(2)):
        assert time.monotonic() < until, "the processes live on"
        time.sleep(0.05)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGQUIT])
def test_signals_are_passed_on(sent):
    code = ("*:f = lambda n, _: (print(signal.Signals(n).name, flush=True), sys.exit(143)); "
            "signal.signal(15, f); signal.signal(2, f); print('ready', flush=True); time.sleep(300)")  # fmt: skip
    process = local("-n", "2", "--restarts", "5", child=(code,))
    try:
        assert sorted(process.stdout.readline() for _ in range(2)) == ["[0] ready\n", "[1] ready\n"]
        process.send_signal(sent)
        found, out, err = finish(process)
    finally:
        kill(process)
    name = "SIGINT" if sent == signal.SIGINT else "SIGTERM"
    assert found == exits.INTERRUPTED, err
    assert sorted(out.splitlines()) == [f"[0] {name}", f"[1] {name}"]  # and it was not started again


def test_it_starts_again_as_often_as_it_was_told(tmp_path):
    """75, 75, 0: two restarts make it good, one does not; other statuses are not tried again."""
    count = f"open({str(tmp_path / 'starts')!r}, 'a').write('x'); n = os.path.getsize({str(tmp_path / 'starts')!r})"
    child = (f"0:{count}; sys.exit(0 if n > 2 else 75)",)
    found, _, said = finish(local("-n", "2", "--restarts", "2", "--pause", "0", "--grace", "5", child=child))
    assert found == 0 and said.count("the same command resumes") == 2, said
    (tmp_path / "starts").unlink()
    found, _, _ = finish(local("-n", "2", "--restarts", "1", "--pause", "0", "--grace", "5", child=child))
    assert found == exits.RESTART and (tmp_path / "starts").read_text() == "xx"
    assert finish(local("-n", "1", "--restarts", "3", child=("0:sys.exit(4)",)))[0] == exits.GIVEN_UP


@pytest.mark.parametrize(
    "argv, says",
    [
        (["-n", "2"], "no command"), (["-n", "0", "--", "true"], "count from 1"),
        (["-n", "2", "--", "no_such_command_at_all"], "no command 'no_such"),
        (["-n", "2", "--", "true", "--process-id=1"], "adds itself"),
        (["-n", "2", "--restarts", "-1", "--", "true"], "0 or more"), (["-n", "x", "--", "true"], "invalid int"),
        (["-n", "3", "--platform", "gpu", "--", "true"], "do not fit the 2"), (["--", "true"], "required: -n"),
    ],
)  # fmt: skip
def test_it_refuses(argv, says):
    done = subprocess.run([sys.executable, LOCAL, *argv], capture_output=True, text=True, timeout=LIMIT,
                          env=os.environ | {"CUDA_VISIBLE_DEVICES": "0,1"})  # fmt: skip
    assert done.returncode == exits.BAD_INPUT and says in done.stderr, done.stderr


def test_dry_run_prints_commands_that_a_shell_reads_back(tmp_path):
    """GPUs are shared out in order; the printed lines, given to bash, are the commands."""
    script = tmp_path / "show me"
    script.write_text('#!/bin/bash\nprintf "%s|" "$CUDA_VISIBLE_DEVICES" "$@"\n')
    script.chmod(0o755)
    done = subprocess.run(
        [sys.executable, LOCAL, "-n", "2", "--platform", "gpu", "--dry-run", "--", script, "a b", "$x*"],
        capture_output=True, text=True, timeout=LIMIT, env=os.environ | {"CUDA_VISIBLE_DEVICES": "3,5,6,7"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for i, line in enumerate(done.stdout.splitlines()):
        parts = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60).stdout.split("|")
        assert parts[:4] == [["3,5", "6,7"][i], "a b", "$x*", "--coordinator"]
        assert parts[5:9] == [
            "--processes",
            "2",
            "--process-id",
            str(i),
        ]


def test_two_processes_train_as_one(tmp_path):
    """The same losses as this process alone; each process's trace, and one table of it."""
    import jax

    from mae_jax.train.build import build
    from mae_jax.train.feed import train_batches

    config = tiny("train.steps=3", "log.every=1", "optim.warmup=0", "method.depth=1")
    run = build(config, jax.devices()[:2])
    batches, state, losses = train_batches(run, run.open("train"), 0), run.init(), []
    for _ in range(3):
        state, told = run.step(state, {}, run.put(next(batches)), run.method.plan(0))
        losses.append(float(told["loss"]))
    batches.close()
    file = config_file(tmp_path / "tiny.py", config)
    process = subprocess.Popen(
        [sys.executable, LOCAL, "-n", "2", "--grace", "20", "--", sys.executable, "-m",
         "mae_jax.commands.main", "train", "--config", file, "--workdir", tmp_path / "two", "--profile", "1:3"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    found, out, err = finish(process)
    assert found == 0, err[-4000:]
    assert "2 process(es)" in err
    two = metrics(tmp_path / "two")
    assert [line["step"] for line in two] == [1, 2, 3]
    assert [line["loss"] for line in two] == pytest.approx(losses, rel=1e-4) and losses[0] != losses[2]
    traces = sorted(p.name for p in (tmp_path / "two/profile/plugins/profile/steps_1_3").glob("*.xplane.pb"))
    assert (
        len(traces) == 2 and traces[0].endswith("_process_0.xplane.pb") and traces[1].endswith("_process_1.xplane.pb")
    )
    assert out.count("profile of steps 1:3") == 1 and "[1] profile" not in out and "all-reduce" in out
