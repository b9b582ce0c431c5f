"""launch/tpu_vm.sh against a stand-in cloud: what it installs, starts and refuses, and what becomes of a run."""

import os
import shlex
import signal
import subprocess

import pytest
from stand_ins import ODD, finish
from tpu_cloud import AT, BUCKET, COMMAND, SCRIPT, TYPE, stand_in_cloud, verbs, wait_for

from mae_jax.core import exits


@pytest.fixture
def cloud(tmp_path):
    with stand_in_cloud(tmp_path / "cloud") as found:
        yield found


def test_arguments_reach_the_workers_as_they_were(cloud):
    (cloud.folder / "node").write_text("READY")
    done = cloud.run(SCRIPT, "run", *AT, *COMMAND, *ODD)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: all((cloud.folder / f"w{k}/mae_jax_run/status").exists() for k in (0, 1)))
    assert cloud.calls("mae_jax") == [[*COMMAND[1:], *ODD]] * 2
    assert "run 0" in cloud.run(SCRIPT, "status", *AT).stdout


def test_the_bucket_is_mounted_so_that_checkpoints_can_be_renamed(cloud):
    """Once; another one that is there already is refused, not written to."""
    (cloud.folder / "node").write_text("READY")
    for k in (0, 1):
        (cloud.folder / f"w{k}/mounted").unlink()
    for _ in range(2):
        assert cloud.run(SCRIPT, "install", *AT, "--bucket", "gs://bucket").returncode == 0
    mounted = ["gcsfuse", "--implicit-dirs", "--rename-dir-limit=200000", "bucket", "/mnt/bucket"]
    assert cloud.calls("gcsfuse") == [mounted] * 2
    done = cloud.run(SCRIPT, "install", *AT, "--bucket", "gs://other")
    assert done.returncode == 4 and "/mnt/bucket holds bucket, and --bucket is other" in done.stderr, done.stderr
    assert len(cloud.calls("gcsfuse")) == 2


def test_a_run_goes_on_where_that_helps(cloud):
    """75, lost, 143, then done on worker 0; given up at once on worker 1."""
    (cloud.folder / "node").write_text("READY")
    (cloud.folder / "task").write_text(
        'echo x >>"$HOME/starts"; [ $WORKER = 0 ] || exit 4\n'
        'case $(wc -l <"$HOME/starts") in 1) exit 75 ;; 2) kill -9 $$ ;; 3) exit 143 ;; esac'
    )
    assert cloud.run(SCRIPT, "run", *AT, *COMMAND).returncode == 0
    wait_for(lambda: all((cloud.folder / f"w{k}/mae_jax_run/status").exists() for k in (0, 1)))
    found = [(cloud.folder / f"w{k}/starts").read_text().count("x") for k in (0, 1)]
    assert found == [4, 1]
    assert [(cloud.folder / f"w{k}/mae_jax_run/status").read_text() for k in (0, 1)] == ["0\n", "4\n"]
    assert "ended with status 75: the same command resumes" in (cloud.folder / "w0/mae_jax_run/log").read_text()


def test_stop_saves_and_does_not_start_again(cloud):
    (cloud.folder / "node").write_text("READY")
    task = "trap 'echo saved; exit 143' TERM; touch $HOME/ready; for ((k = 0; k < 3000; k++)); do /bin/sleep 0.02; done"
    (cloud.folder / "task").write_text(task)
    assert cloud.run(SCRIPT, "run", *AT, *COMMAND).returncode == 0
    wait_for(lambda: all((cloud.folder / f"w{k}/ready").exists() for k in (0, 1)))
    again = cloud.run(SCRIPT, "run", *AT, *COMMAND)
    assert again.returncode != 0 and "a run is under way" in again.stderr
    done = cloud.run(SCRIPT, "stop", *AT)
    assert done.returncode == 0, done.stderr
    for k in (0, 1):
        assert (cloud.folder / f"w{k}/mae_jax_run/status").read_text() == "143\n"
        assert (cloud.folder / f"w{k}/mae_jax_run/log").read_text() == "saved\n"
    assert len(cloud.calls("mae_jax")) == 2


def test_stop_in_the_pause_between_two_starts_is_heard(cloud):
    (cloud.folder / "node").write_text("READY")
    (cloud.folder / "task").write_text(f"exit {exits.RESTART}")
    pause = (
        '[ "$1" != 5 ] || { touch "$HOME/pauses"; until [ -e "$HOME/mae_jax_run/stop" ]; do /bin/sleep 0.01; done; }'
    )
    cloud.add(cloud.folder / "bin/sleep", f"{pause}\nexec /bin/sleep 0.01")
    assert cloud.run(SCRIPT, "run", *AT, *COMMAND).returncode == 0
    wait_for(lambda: all((cloud.folder / f"w{k}/pauses").exists() for k in (0, 1)))
    assert cloud.run(SCRIPT, "stop", *AT).returncode == 0
    assert [(cloud.folder / f"w{k}/mae_jax_run/status").read_text() for k in (0, 1)] == [f"{exits.RESTART}\n"] * 2
    assert len(cloud.calls("mae_jax")) == 2


def test_a_tpu_that_is_taken_away_is_created_again_and_the_run_resumes(cloud):
    """The first TPU is preempted in mid-run; on the second the same command ends well, and the TPU is deleted."""
    (cloud.folder / "task").write_text(
        '[ $WORKER = 0 ] || exit 0; cd "$STAND_INS"; until [ -e w1/mae_jax_run/status ]; do /bin/sleep 0.01; done\n'
        "echo x >>starts; [ $(wc -l <starts) = 1 ] || exit 0\n"
        "echo SUSPENDED >queue; echo PREEMPTED >node; kill -9 $(cat w0/session)"
    )
    options = (*TYPE, "--spot", "--bucket", "gs://bucket", "--poll", "0", "--delete-when-done")
    done = cloud.run(SCRIPT, "train", *AT, *options, *COMMAND)
    assert done.returncode == 0 and "taken away (PREEMPTED)" in done.stderr, done.stderr
    once = ["queued-resources create", "tpu-vm scp"]
    assert verbs(cloud) == [*once, "queued-resources delete", *once, "queued-resources delete"]
    assert cloud.calls("mae_jax").count([*COMMAND[1:]]) == 4  # two workers, twice


@pytest.mark.parametrize("status", [exits.GIVEN_UP, exits.BAD_INPUT, exits.FAILED])
def test_what_does_not_help_is_not_tried_again(cloud, status):
    (cloud.folder / "task").write_text(f"exit {status}")
    options = (*TYPE, "--bucket", "gs://bucket", "--poll", "0", "--delete-when-done")
    done = cloud.run(SCRIPT, "train", *AT, *options, *COMMAND)
    assert done.returncode == status and "costs until it is deleted" in done.stderr, done.stderr
    assert verbs(cloud) == ["queued-resources create", "tpu-vm scp"]
    wait_for(lambda: (cloud.folder / "w1/mae_jax_run/status").exists())  # it may start after worker 0 has ended
    assert len(cloud.calls("mae_jax")) == 2


WAITS = "for ((k = 0; k < 3000; k++)); do /bin/sleep 0.02; done"  # a worker that waits for another


def test_one_worker_that_should_not_go_on_ends_all(cloud):
    """Worker 1 gives up; worker 0 waits for it, is stopped and saves."""
    (cloud.folder / "task").write_text(
        f'until [ $WORKER = 0 ] || [ -e "$STAND_INS/w0/ready" ]; do /bin/sleep 0.01; done\n'
        f"[ $WORKER = 0 ] || exit {exits.GIVEN_UP}\n"
        f"trap 'echo saved; exit 143' TERM; touch \"$HOME/ready\"; {WAITS}"
    )
    done = cloud.run(SCRIPT, "train", *AT, *BUCKET, *COMMAND)
    assert done.returncode == exits.GIVEN_UP and "the others are stopped" in done.stderr, done.stderr
    assert (cloud.folder / "w0/mae_jax_run/log").read_text() == "saved\n"
    assert len(cloud.calls("mae_jax")) == 2


@pytest.mark.parametrize("worker", [0, 1])
def test_a_worker_that_has_lost_its_run_is_started_again_with_the_others(cloud, worker):
    """Its session is gone, as after maintenance of its host; the other one waits for it."""
    (cloud.folder / "task").write_text(
        'echo x >>"$HOME/starts"; [ $(wc -l <"$HOME/starts") = 1 ] || exit 0; touch "$HOME/ready"\n'
        f"until [ -e $STAND_INS/w0/ready ] && [ -e $STAND_INS/w1/ready ]; do /bin/sleep 0.01; done\n"
        f"[ $WORKER = {1 - worker} ] || {{ kill -9 $(cat $HOME/session); exit 1; }}\n"
        f"trap 'echo saved; exit 143' TERM; {WAITS}"
    )
    done = cloud.run(SCRIPT, "train", *AT, *BUCKET, *COMMAND)
    assert done.returncode == 0 and "has lost the run" in done.stderr, done.stderr
    assert "saved" in (cloud.folder / f"w{1 - worker}/mae_jax_run/log").read_text()
    assert verbs(cloud) == ["queued-resources create", "tpu-vm scp", "tpu-vm scp"]  # the TPU is the same
    assert [(cloud.folder / f"w{k}/starts").read_text() for k in (0, 1)] == ["x\n" * 2] * 2


@pytest.mark.parametrize("worker", [0, 1])
def test_a_worker_that_does_not_answer_is_waited_for(cloud, worker):
    """Nothing is installed over its run, however long ssh is down."""
    (cloud.folder / "task").write_text(
        f"echo x >>$HOME/starts; [ $WORKER = {worker} ] || exit 0\n"
        "yes | head -30 >$HOME/deaf; while [ -s $HOME/deaf ]; do /bin/sleep 0.01; done"
    )
    done = cloud.run(SCRIPT, "train", *AT, *BUCKET, *COMMAND)
    assert done.returncode == 0 and "not all workers answer" in done.stderr, done.stderr
    assert verbs(cloud) == ["queued-resources create", "tpu-vm scp"] and len(cloud.calls("mae_jax")) == 2


def test_a_start_that_fails_half_way_is_not_taken_for_a_run(cloud):
    """Worker 1, which has the status of an older run, does not hear the start; worker 0 waits for it."""
    (cloud.folder / "node").write_text("READY")
    for k in (0, 1):
        (cloud.folder / f"w{k}/mae_jax_run").mkdir()
        (cloud.folder / f"w{k}/mae_jax_run/status").write_text(f"{exits.RESTART}\n")
    (cloud.folder / "w1/deaf").write_text("n\n" * 3 + "y\n")  # looked at, installed, mounted, started
    (cloud.folder / "task").write_text(
        'echo x >>"$HOME/starts"; [ $WORKER = 0 ] && [ $(wc -l <"$HOME/starts") = 1 ] || exit 0\n'
        f"trap 'exit 143' TERM; {WAITS}"
    )
    done = cloud.run(SCRIPT, "train", *AT, *BUCKET, *COMMAND)
    assert done.returncode == 0, done.stderr
    assert [(cloud.folder / f"w{k}/starts").read_text().count("x") for k in (0, 1)] == [2, 1]


def test_nothing_is_installed_below_a_run(cloud):
    (cloud.folder / "node").write_text("READY")
    (cloud.folder / "task").write_text(f"touch $HOME/ready; {WAITS}")
    assert cloud.run(SCRIPT, "run", *AT, *COMMAND).returncode == 0
    done = cloud.run(SCRIPT, "install", *AT)
    assert done.returncode != 0 and done.stderr.count("a run is under way") == 2


@pytest.mark.parametrize(
    "argv, says",
    [
        (["start", *AT], "is none of"), ([], "is none of"), (["create", *AT[2:], *TYPE], "--name="),
        (["create", "--name", "A b", *AT[2:], *TYPE], "--name=A b"), (["create", *AT[:2], *AT[4:], *TYPE], "--zone="),
        (["create", *AT[:4], *TYPE], "--project is missing"), (["create", *AT, *TYPE[2:]], "--type="),
        (["create", *AT, "--type", "v9-8", *TYPE[2:]], "--type=v9-8"), (["create", *AT, *TYPE[:2]], "--version is"),
        (["create", *AT, *TYPE, "--spott"], "has no value"),
        (["create", *AT, *TYPE, "--spott", "1"], "no option --spott"),
        (["create", *AT, *TYPE, *COMMAND], "takes no command"), (["delete", *AT], "add --yes"),
        (["run", *AT], "no command"), (["run", *AT, "--", "mae_jax", "train"], "no --workdir"),
        (["run", *AT, "--", "mae_jax", "train", "--workdir", "runs/x"], "lost with the TPU"),
        (["run", *AT, *COMMAND, "--process-id=0"], "leave it out"),
        (["train", *AT, *TYPE, *COMMAND], "--bucket gs://NAME is needed"),
        (["train", *AT, *TYPE, "--bucket", "bucket", *COMMAND], "gs://NAME is expected"),
        (["train", *AT, *TYPE, "--bucket", "gs://b1", "--source", "/", *COMMAND], "no checkout"),
        (["create", *AT, *TYPE, "--wait", "long"], "is a number"),
    ],
)  # fmt: skip
def test_it_refuses_before_anything_costs(cloud, argv, says):
    done = cloud.run(SCRIPT, *argv)
    assert done.returncode == exits.BAD_INPUT and says in done.stderr, done.stderr
    assert cloud.calls("gcloud") == []


def test_what_cannot_be_installed_is_refused_before_anything_costs(cloud, tmp_path):
    """A checkout without git; then a config that is there, and not committed; then all is well."""
    (cloud.folder / "bin/git").unlink()
    source, me = tmp_path / "source", ("-c", "user.name=me", "-c", "user.email=me@localhost")
    (source / "configs").mkdir(parents=True)
    (source / "setup.cfg").write_text("")
    command = ("--source", source, "--", "mae_jax", "train", "--workdir", "/mnt/bucket/run", "--config")
    train = (SCRIPT, "train", *AT, *BUCKET, *command)
    for verb in (("install", *AT, "--source", source), train[1:] + ("configs/new.py",)):
        done = cloud.run(SCRIPT, *verb, GIT_CEILING_DIRECTORIES=str(tmp_path))
        assert done.returncode == exits.BAD_INPUT and "a git clone is needed" in done.stderr, done.stderr
    git = lambda *argv: subprocess.run(["git", "-C", source, *me, *argv], check=True, capture_output=True)
    git("init"), git("add", "setup.cfg"), git("commit", "-m", "one")
    (source / "configs/new.py").write_text("")
    for config in ("configs/new.py:arg", "./configs/new.py"):
        done = cloud.run(*train, config)
        assert done.returncode == exits.BAD_INPUT and "new.py: the last commit of" in done.stderr, done.stderr
    assert cloud.calls("gcloud") == []
    git("add", "configs"), git("commit", "-m", "two")
    for config in ("configs/new.py:arg", "./configs/new.py", "/mnt/bucket/other.py"):
        done = cloud.run(*train, config)
        assert done.returncode == 0, done.stderr


def test_apt_waits_for_its_lock(cloud):
    """A fresh machine upgrades itself."""
    sent = cloud.run(SCRIPT, "install", *AT, "--bucket", "gs://bucket", "--dry-run").stdout
    assert sent.count("apt-get") == 6 == sent.count("apt-get -o DPkg::Lock::Timeout=600 ")


def test_dry_run_prints_every_command(cloud):
    """What `train --dry-run` prints, read by a shell's rules, is what `train` calls."""
    options = (*TYPE, "--bucket", "gs://bucket", "--poll", "0")
    printed = cloud.run(SCRIPT, "train", *AT, *options, "--dry-run", *COMMAND, *ODD).stdout
    assert cloud.calls("gcloud") == []
    words = shlex.split(printed)
    assert cloud.run(SCRIPT, "train", *AT, *options, *COMMAND, *ODD).returncode == 0
    for call in cloud.calls("gcloud"):
        for argument in call:
            assert argument in words or "mae_jax_" in argument or argument.startswith("--format"), argument
    sent = {a for call in cloud.calls("gcloud") for a in call if a.startswith("--command=")}
    assert sent == {word for word in words if word.startswith("--command=")} and len(sent) == 4
    for verb in ("create", "install", "run", "logs", "status", "stop", "delete"):
        more = TYPE if verb == "create" else COMMAND if verb == "run" else ()
        (cloud.folder / "calls").unlink(missing_ok=True)
        done = cloud.run(SCRIPT, verb, *AT, "--dry-run", *more)
        assert done.returncode == 0 and "gcloud compute tpus " in done.stdout, (verb, done.stderr)
        assert verb not in ("status", "logs") or "--command=" in done.stdout
        assert "TPU is not there" not in done.stdout  # nobody has asked
        assert cloud.calls("gcloud") == []
    assert cloud.run(SCRIPT, "train", "--help").stdout.startswith("usage: launch/tpu_vm.sh")


def test_a_watch_that_is_ended_leaves_the_run_alone(cloud):
    (cloud.folder / "task").write_text("touch $HOME/ready; for ((k = 0; k < 3000; k++)); do /bin/sleep 0.02; done")
    process = cloud.start(SCRIPT, "train", *AT, *TYPE, "--bucket", "gs://bucket", "--poll", "0", *COMMAND)
    try:
        wait_for(lambda: (cloud.folder / "w0/ready").exists(), process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        finish(process)
    assert "delete" not in " ".join(verbs(cloud)) and (cloud.folder / "node").exists()
