"""launch/slurm.sbatch: what it submits and refuses, what the job starts, and when it is queued again."""

import contextlib
import os
import re
import signal
import subprocess
import time

import pytest
from stand_ins import LIMIT, ODD, ROOT, StandIns, end, finish

from mae_jax.core import exits

SCRIPT = ROOT / "launch/slurm.sbatch"
COMMAND = ("--", "mae_jax", "train", "--config", "c.py", "--workdir", "/shared/run")
ASKED = ("--nodes", "2", "--time", "24:00:00")
# srun: the tasks of the job, each with its number; SIGTERM kills them, as the real one's does; the highest status.
SRUN = """
while [[ $1 == --* ]]; do shift; done
set -m
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i "$@" & pids+=($!); done
trap 'for pid in ${pids[@]}; do kill -KILL -- -$pid 2>/dev/null; done' TERM
echo ${pids[@]} >"$STAND_INS/tasks"
worst=0
for pid in ${pids[@]}; do
  while kill -0 $pid 2>/dev/null; do wait $pid; done
  wait $pid; status=$?
  [ $status -gt $worst ] && worst=$status
done
exit $worst
"""
# scancel: the signal goes to every process of the job's steps.
SCANCEL = """
[ "$*" = "--signal=TERM 7" ] && for pid in $(cat "$STAND_INS/tasks"); do kill -TERM -- -$pid 2>/dev/null; done
"""
SBATCH = """
while [[ $1 == --* ]]; do shift; done
script=$1; shift
cp "$script" "$STAND_INS/slurm_script"
exec bash "$STAND_INS/slurm_script" "$@"
"""
SCONTROL = 'if [ "$1" = show ]; then echo "JobId=7 JobState=$(cat "$STAND_INS/state") Reason=None"; fi'


@pytest.fixture
def cluster(tmp_path):
    programs = {"sbatch": SBATCH, "srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL, "mae_jax": ". ./task"}
    stand_ins = StandIns(tmp_path / "cluster", **programs)
    (stand_ins.folder / "c.py").write_text("")
    (stand_ins.folder / "state").write_text("RUNNING")
    stand_ins.environment |= {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_SUBMIT_DIR": str(stand_ins.folder)}
    return stand_ins


def job(cluster, task, setup=None, **environment):
    """A submission whose job runs at once, each task doing a piece of bash."""
    (cluster.folder / "task").write_text(task)
    options = ("--setup", setup) if setup else ()
    return cluster.start(SCRIPT, *ASKED, *options, *COMMAND, **environment)


def requeued(cluster):
    return ["scontrol", "requeue", "7"] in cluster.calls()


def test_what_is_submitted(cluster):
    (cluster.folder / "task").write_text("")
    (cluster.folder / "my setup").write_text("export FROM_SETUP=1")
    options = ("--gpus=4", "--partition", "h100", "--account", "lab", "--cpus", "12", "--sbatch=--mem=0",
               "--max-restarts", "3", "--warn", "600", "--setup", "my setup")  # fmt: skip
    done = cluster.run(SCRIPT, *ASKED, *options, *COMMAND, *ODD)
    assert done.returncode == 0, done.stderr
    submitted, started, *tasks = cluster.calls()
    assert submitted == [
        "sbatch", "--nodes=2", "--time=24:00:00", "--ntasks-per-node=4", "--gpus-per-node=4", "--signal=B:USR1@600",
        "--partition=h100", "--account=lab", "--cpus-per-task=12", "--mem=0", str(SCRIPT), "--job", "--max-restarts",
        "3", "--setup", "my setup", *COMMAND, *ODD,
    ]  # fmt: skip
    assert started[:4] == ["srun", "--kill-on-bad-exit=1", "bash", "-c"]
    assert started[5:] == ["mae_jax", *COMMAND[1:], *ODD]
    assert tasks == [[*COMMAND[1:], *ODD]] * 2  # every task has the arguments as they were


def test_a_setup_that_does_not_hold_under_strict_options(cluster):
    """As conda's: it reads variables that are not set, and commands fail on the way and at its end."""
    (cluster.folder / "setup").write_text('echo "$NOT_SET_ANYWHERE"; false | true; false; export FROM_SETUP=1; [ ]')
    done = finish(job(cluster, '[ "$FROM_SETUP" = 1 ]', setup="setup"))
    assert done.returncode == 0 and "--setup setup ended with status 1" in done.stderr, done.stderr
    (cluster.folder / "setup").write_text("exit 5")
    assert finish(job(cluster, "exit 0", setup="setup")).returncode == 5
    assert not list(cluster.folder.glob(".mae_jax_*"))


def test_the_file_given_to_sbatch_itself_is_a_job(cluster):
    """`sbatch launch/slurm.sbatch -- mae_jax ...`, with what its own #SBATCH lines ask for."""
    (cluster.folder / "task").write_text("")
    assert cluster.run("sbatch", "--nodes=2", SCRIPT, *COMMAND).returncode == 0
    assert [call[0] for call in cluster.calls()] == ["sbatch", "srun", "mae_jax", "mae_jax"]
    lines = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", SCRIPT.read_text(), re.M))
    assert lines["ntasks-per-node"] == lines["gpus-per-node"]  # a process per GPU, as jax reads SLURM_LOCALID
    assert "requeue" in lines and lines["signal"].startswith("B:USR1@") and lines["open-mode"] == "append"


@pytest.mark.parametrize(
    "first, second, status, again",
    [
        ("exit 0", "exit 0", exits.DONE, False), ("exit 1", "exit 1", exits.FAILED, False),
        ("exit 2", "exit 75", exits.BAD_INPUT, False), ("exit 3", "exit 3", exits.TOO_LARGE, False),
        ("exit 75", "exit 4", exits.GIVEN_UP, False), ("exit 75", "exit 75", exits.RESTART, True),
        ("exit 143", "exit 143", exits.INTERRUPTED, True), ("exit 75", "kill -9 $$", exits.RESTART, True),
        ("kill -9 $$", "exit 0", exits.RESTART, True),  # a process was lost
    ],
)  # fmt: skip
def test_when_it_is_queued_again(cluster, first, second, status, again):
    done = finish(job(cluster, f"if [ $SLURM_PROCID = 0 ]; then {first}; else {second}; fi"))
    assert (done.returncode, requeued(cluster)) == (status, again), done.stderr
    assert not list(cluster.folder.glob(".mae_jax_*"))


def test_no_more_often_than_allowed_and_not_when_cancelled(cluster):
    assert finish(job(cluster, "exit 75", SLURM_RESTART_COUNT="100")).returncode == exits.RESTART
    assert not requeued(cluster)
    assert finish(job(cluster, "exit 75", SLURM_RESTART_COUNT="99")).returncode == exits.RESTART
    assert requeued(cluster)
    (cluster.folder / "calls").unlink()
    (cluster.folder / "state").write_text("CANCELLED")
    assert finish(job(cluster, "exit 143")).returncode == exits.INTERRUPTED and not requeued(cluster)


def test_a_status_is_not_lost_among_signals(tmp_path):
    """Where signals come while a child ends, the `wait` of bash 5.2 says -1."""
    text = SCRIPT.read_text()
    begin, end_ = text.index("DONE=0"), text.index("# The status of the run")
    say = ["bash", "-c", text[begin:end_] + 'printf %s "$TASK"']
    task = subprocess.run(say, capture_output=True, text=True, check=True).stdout
    child = "trap 'exit 143' TERM; echo ready; for ((k = 0; k < 300; k++)); do sleep 0.02; done"
    processes = [
        subprocess.Popen(
            ["bash", "-c", task, "mae_jax", "bash", "-c", child], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, env=os.environ | {"MAE_JAX_STATUSES": str(tmp_path), "SLURM_PROCID": str(i)},
        )
        for i in range(24)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for _ in range(12):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.003)
    for process in processes:
        process.stdout.close()
        process.wait(LIMIT)
    written = [path.read_text() for path in tmp_path.iterdir()]  # none by one that was killed at its very end
    assert len(written) > 12 and set(written) == {f"{exits.INTERRUPTED}\n"}


@pytest.mark.parametrize("sent, again", [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_the_time_limit(cluster, sent, again):
    """SIGUSR1 to the batch script: the tasks get SIGTERM, save and end with 143; the job is queued again."""
    # Each gets the signal twice, of its process group and passed on, and saves once, as `mae_jax train` does.
    task = ("trap 'trap \"\" TERM; echo saved >>saved; exit 143' TERM; echo ready >>ready; "
            "for ((k = 0; k < 300; k++)); do sleep 0.05; done")  # fmt: skip
    process = job(cluster, task)
    try:
        until = time.monotonic() + LIMIT
        while not (cluster.folder / "ready").exists() or (cluster.folder / "ready").read_text().count("ready") < 2:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(sent)
        done = finish(process)
    finally:
        end(process)
    assert done.returncode == exits.INTERRUPTED, done.stderr
    assert (cluster.folder / "saved").read_text() == "saved\n" * 2
    assert requeued(cluster) == again


@pytest.mark.parametrize(
    "argv, says",
    [
        ([*ASKED], "no command"), (["--time", "1:00", *COMMAND], "--nodes is missing"),
        (["--nodes", "2", *COMMAND], "--time is missing"),
        (["--nodes", "0", "--time", "90", *COMMAND], "counts from 1"),
        (["--nodes", "2", "--time", "tomorrow", *COMMAND], "no limit that Slurm reads"),
        (["--nodes", "2", "--time", "0", *COMMAND], "zero is no limit"),
        (["--nodes", "2", "--time", "0-0:00:00", *COMMAND], "zero is no limit"),
        (["--nodes", "2", "--time", "4", *COMMAND], "is 240 s, and SIGUSR1 comes 300 s before"),
        (["--nodes", "2", "--time", "08:09", "--warn", "500", *COMMAND], "is 489 s"),
        (["--nodes", "2", "--time", "1:00:08", "--warn", "4000", *COMMAND], "is 3608 s"),
        (["--nodes", "2", "--time", "1-1:00", "--warn", "90000", *COMMAND], "is 90000 s"),
        ([*ASKED, "--gpu", "2", *COMMAND], "no option --gpu"), ([*ASKED, "--gpus", *COMMAND], "has no value"),
        ([*ASKED, "mae_jax", "train"], "is no option"), ([*ASKED, "--setup", "no", *COMMAND], "no file no"),
        ([*ASKED, "--", "mae_jax", "train", "--config", "c.py"], "no --workdir"),
        ([*ASKED, "--", "mae_jax", "train", "--config=d.py:x", "--workdir=/w"], "no config file d.py"),
        ([*ASKED, *COMMAND, "--process-id", "0"], "Slurm says this itself"),
        ([*ASKED, "--max-restarts", "x", *COMMAND], "is a number"),
    ],
)  # fmt: skip
def test_it_refuses_before_it_submits(cluster, argv, says):
    done = cluster.run(SCRIPT, *argv)
    assert done.returncode == exits.BAD_INPUT and says in done.stderr, done.stderr
    assert cluster.calls() == []


def test_dry_run_prints_what_would_be_submitted(cluster):
    (cluster.folder / "task").write_text("")
    done = cluster.run(SCRIPT, *ASKED, "--dry-run", *COMMAND, *ODD)
    assert done.returncode == 0 and cluster.calls() == []
    assert cluster.run(SCRIPT, *ASKED, *COMMAND, *ODD).returncode == 0
    expected = cluster.calls()
    (cluster.folder / "calls").unlink()
    assert cluster.run("bash", "-c", done.stdout.split("\nsrun ")[0]).returncode == 0  # what was printed, as it was
    assert cluster.calls() == expected
    assert cluster.run(SCRIPT, "--help").stdout.startswith("usage: launch/slurm.sbatch")
