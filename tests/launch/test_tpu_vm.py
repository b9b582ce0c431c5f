"""launch/tpu_vm.sh against a stand-in cloud: what it asks for, in which order, and what becomes of a run."""

import contextlib
import os
import shlex
import signal
import time

import pytest
from stand_ins import LIMIT, ODD, ROOT, StandIns, finish

from mae_jax.core import exits

SCRIPT = ROOT / "launch/tpu_vm.sh"
AT = ("--name", "mae", "--zone", "us-central2-b", "--project", "lab")
TYPE = ("--type", "v4-32", "--version", "tpu-ubuntu2204-base")
COMMAND = ("--", "mae_jax", "train", "--config", "c.py", "--workdir", "/mnt/bucket/run")
WHERE = ["--zone=us-central2-b", "--project=lab"]
# A cloud with one TPU of two workers. Files: node, queue (their states; missing: not there), broken (every call fails).
# Worker k has the home w$k; ssh runs its command there as sshd does, by a shell. It does not answer as often as
# w$k/deaf has lines; asking
# and copying fail as often as unlucky has lines, deleting as often as stays has.
GCLOUD = r"""
cd "$STAND_INS"
if [ -e broken ]; then echo 'PERMISSION_DENIED' >&2; exit 1; fi
show() { if [ -e "$1" ]; then cat "$1"; else echo "ERROR: NOT_FOUND: $1" >&2; exit 1; fi; }
case "$3 $4" in
  "queued-resources describe")
    case $* in *json*) cat asked 2>/dev/null || echo '{"acceleratorType": "v4-32"}' ;; *) show queue ;; esac ;;
  "queued-resources create")
    if [ -s unlucky ]; then sed -i 1d unlucky; exit 1; fi
    case $* in *--spot*) echo '"spot": {},' ;; esac >asked
    echo '"acceleratorType": "v4-32"' >>asked
    echo "${ON_CREATE:-ACTIVE}" >queue; [ -n "${ON_CREATE:-}" ] || echo READY >node ;;
  "queued-resources delete") if [ -s stays ]; then sed -i 1d stays; exit 1; fi; rm -rf queue node w0 w1 ;;
  "tpu-vm describe") case $* in *acceleratorType*) show node >&2 && echo projects/x/v4-32 ;; *) show node ;; esac ;;
  "tpu-vm create") echo READY >node ;;
  "tpu-vm delete") rm -rf node w0 w1 ;;
  "tpu-vm scp")
    [ -s "$5" ] || exit 1
    if [ -s unlucky ]; then
      ! grep -q vanish unlucky || rm -f node queue
      sed -i 1d unlucky
      exit 1
    fi
    ;;
  "tpu-vm ssh")
    [ "$(cat node)" = READY ] || { echo 'connection refused' >&2; exit 255; }
    worst=0
    for argument in "$@"; do
      case $argument in --worker=*) worker=${argument#*=} ;; --command=*) do=${argument#*=} ;; esac
    done
    for k in 0 1; do
      [ "$worker" = all ] || [ "$worker" = $k ] || continue
      mkdir -p w$k/mae_jax w$k/mae_jax_venv/bin
      touch w$k/mae_jax_venv/bin/activate
      if [ -s w$k/deaf ]; then sed -i 1d w$k/deaf; worst=255; continue; fi
      case $do in *"pip install"*) HOME=$STAND_INS/w$k bash -c "${do%%set -e*}" || worst=$?; continue ;; esac
      HOME=$STAND_INS/w$k WORKER=$k bash -c "$do" || worst=$?
    done
    exit $worst
    ;;
esac
"""
# A session is the process that a file in the worker's home names. As with tmux, it is out of the caller's process group
# when the call returns: the caller may be killed at once.
TMUX = r"""
case $1 in
  has-session) [ -e "$HOME/session" ] && kill -0 "$(cat "$HOME/session")" 2>/dev/null ;;
  new-session)
    rm -f "$HOME/session"
    start='echo $$ >"$HOME/session.new" && mv "$HOME/session.new" "$HOME/session"; exec bash -c "$1"'
    setsid bash -c "$start" - "${@: -1}" >>"$HOME/screen" 2>&1 </dev/null &
    until [ -e "$HOME/session" ]; do /bin/sleep 0.01; done
    ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
    mount = {"gcsfuse": 'echo "${@: -2:1}" >"$HOME/mounted"', "findmnt": 'cat "$HOME/mounted"', "sudo": "",
             "mountpoint": '[ -e "$HOME/mounted" ]'}  # fmt: skip
    found = StandIns(tmp_path / "cloud", gcloud=GCLOUD, tmux=TMUX, **mount, mae_jax='. "$STAND_INS/task"',
                     sleep="exec /bin/sleep 0.01", git='[ $3 = status ] || echo x >"${@: -2:1}"')  # fmt: skip
    (found.folder / "task").write_text("exit 0")
    for k in (0, 1):
        (found.folder / f"w{k}").mkdir()
        (found.folder / f"w{k}/mounted").write_text("bucket\n")
    yield found
    for home in found.folder.glob("w?"):  # whatever still runs there
        for name in ("session", "mae_jax_run/pid"):
            if (home / name).exists():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int((home / name).read_text()), signal.SIGKILL)


def verbs(cloud, *wanted):
    """The calls of gcloud that change something (or those wanted), each by its verb."""
    calls = [" ".join(call[3:5]) for call in cloud.calls("gcloud")]
    return [call for call in calls if call.split()[1] in (wanted or ("create", "delete", "scp"))]


def wait_for(happened, process=None):
    until = time.monotonic() + LIMIT
    while not happened():
        assert process is None or process.poll() is None, process.communicate(timeout=10)
        assert time.monotonic() < until
        time.sleep(0.02)


def test_create_asks_once_and_attaches_after_that(cloud):
    done = cloud.run(SCRIPT, "create", *AT, *TYPE, "--spot", "--poll", "0")
    assert done.returncode == 0 and "costs from now on" in done.stderr, done.stderr
    create = [call for call in cloud.calls("gcloud") if call[4] == "create"]
    assert create == [
        ["gcloud", "compute", "tpus", "queued-resources", "create", "mae", *WHERE, "--node-id=mae",
         "--accelerator-type=v4-32", "--runtime-version=tpu-ubuntu2204-base", "--valid-until-duration=86400s", "--spot"]
    ]  # fmt: skip
    done = cloud.run(SCRIPT, "create", *AT, *TYPE, "--spot")
    assert done.returncode == 0 and "attached" in done.stderr and verbs(cloud) == ["queued-resources create"]
    done = cloud.run(SCRIPT, "create", *AT, "--type", "v4-8", "--version", "x", "--spot")
    assert done.returncode == exits.BAD_INPUT and "is there as v4-32" in done.stderr
    assert cloud.run(SCRIPT, "delete", *AT, "--yes").returncode == 0
    assert cloud.run(SCRIPT, "create", *AT, *TYPE, "--direct").returncode == 0
    assert cloud.calls("gcloud")[-2][3:] == [
        "tpu-vm", "create", "mae", *WHERE, "--accelerator-type=v4-32", "--version=tpu-ubuntu2204-base"
    ]  # fmt: skip


def test_an_error_is_not_taken_for_nothing_there(cloud):
    """Without permission it creates nothing, and says what gcloud said."""
    (cloud.folder / "broken").touch()
    done = cloud.run(SCRIPT, "train", *AT, *TYPE, "--bucket", "gs://bucket", "--poll", "0", *COMMAND)
    assert done.returncode == 1 and "PERMISSION_DENIED" in done.stderr and verbs(cloud) == []


def test_what_failed_is_deleted_first(cloud):
    (cloud.folder / "queue").write_text("FAILED")
    assert cloud.run(SCRIPT, "create", *AT, *TYPE, "--poll", "0").returncode == 0
    assert verbs(cloud) == ["queued-resources delete", "queued-resources create"]
    (cloud.folder / "node").write_text("PREEMPTED")
    (cloud.folder / "queue").write_text("SUSPENDED")
    assert cloud.run(SCRIPT, "create", *AT, *TYPE, "--poll", "0").returncode == 0
    assert verbs(cloud)[2:] == ["queued-resources delete", "queued-resources create"]


@pytest.mark.parametrize(
    "node, queue, asked, options, says",
    [
        ("STOPPED", None, None, TYPE, "by somebody's wish"),
        ("PREEMPTED", "SUSPENDED", None, ("--type", "v4-8", *TYPE[2:]), "is there as v4-32"),
        (None, "WAITING_FOR_RESOURCES", '"acceleratorType": "v4-8"', TYPE, "is there as v4-8"),
        (None, "FAILED", '"acceleratorType": "v4-8"', TYPE, "is there as v4-8"),
        (None, "ACCEPTED", None, (*TYPE, "--spot"), "without --spot"),
        (None, "ACCEPTED", '"spot": {}, "acceleratorType": "v4-32"', TYPE, "with --spot"),
    ],
)
def test_what_is_there_and_was_not_asked_for_is_left_alone(cloud, node, queue, asked, options, says):
    for name, text in (("node", node), ("queue", queue), ("asked", asked)):
        if text:
            (cloud.folder / name).write_text(text)
    done = cloud.run(SCRIPT, "create", *AT, *options, "--poll", "0")
    assert done.returncode == exits.BAD_INPUT and says in done.stderr, done.stderr
    assert verbs(cloud) == []


def test_waiting_ends_where_nothing_can_come(cloud):
    """A node that was taken away before it was ready, and a request that was deleted elsewhere; then by the clock."""
    (cloud.folder / "node").write_text("CREATING")
    process = cloud.start(SCRIPT, "create", *AT, *TYPE, "--direct", "--poll", "0")
    wait_for(lambda: len(cloud.calls("sleep")) > 1, process)
    (cloud.folder / "node").write_text("PREEMPTED")
    done = finish(process)
    assert done.returncode == 1 and "was taken away, or deleted elsewhere (PREEMPTED)" in done.stderr, done.stderr
    (cloud.folder / "node").unlink()
    (cloud.folder / "queue").write_text("ACCEPTED")
    slept = len(cloud.calls("sleep"))
    process = cloud.start(SCRIPT, "create", *AT, *TYPE, "--poll", "0")
    wait_for(lambda: len(cloud.calls("sleep")) > slept + 1, process)
    (cloud.folder / "queue").unlink()
    done = finish(process)
    assert done.returncode == 1 and "deleted elsewhere (no node)" in done.stderr, done.stderr
    (cloud.folder / "queue").write_text("ACCEPTED")
    done = cloud.run(SCRIPT, "create", *AT, *TYPE, "--poll", "0", "--wait", "0")
    assert done.returncode == 1 and "not ready after 0 s" in done.stderr, done.stderr


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


BUCKET = (*TYPE, "--bucket", "gs://bucket", "--poll", "0")
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


def test_nothing_is_installed_below_a_run(cloud):
    (cloud.folder / "node").write_text("READY")
    (cloud.folder / "task").write_text(f"touch $HOME/ready; {WAITS}")
    assert cloud.run(SCRIPT, "run", *AT, *COMMAND).returncode == 0
    done = cloud.run(SCRIPT, "install", *AT)
    assert done.returncode != 0 and done.stderr.count("a run is under way") == 2


def test_what_fails_once_is_tried_again(cloud):
    """Asking for the TPU, deleting it, copying."""
    for name, times in (("unlucky", 4), ("stays", 1)):
        (cloud.folder / name).write_text("\n" * times)
    done = cloud.run(SCRIPT, "train", *AT, *BUCKET, "--delete-when-done", *COMMAND)
    assert done.returncode == 0, done.stderr
    create, delete = "queued-resources create", "queued-resources delete"
    assert verbs(cloud) == [create] * 5 + ["tpu-vm scp"] + [delete] * 2
    (cloud.folder / "calls").unlink()
    (cloud.folder / "node").write_text("READY")
    (cloud.folder / "unlucky").write_text("\n" * 3)
    assert cloud.run(SCRIPT, "train", *AT, *BUCKET, *COMMAND).returncode == 0
    assert verbs(cloud) == ["tpu-vm scp"] * 4


def test_a_tpu_that_vanishes_while_it_is_set_up_is_asked_for_again(cloud):
    (cloud.folder / "queue").write_text("ACTIVE")
    (cloud.folder / "node").write_text("READY")
    (cloud.folder / "unlucky").write_text("vanish\n")
    done = cloud.run(SCRIPT, "train", *AT, *BUCKET, *COMMAND)
    assert done.returncode == 0 and "it is not there any more" in done.stderr, done.stderr
    assert verbs(cloud) == ["tpu-vm scp", "queued-resources create", "tpu-vm scp"]


def test_it_is_created_again_so_often_and_no_more(cloud):
    options = (*TYPE, "--bucket", "gs://bucket", "--poll", "0", "--recreate", "2")
    done = cloud.run(SCRIPT, "train", *AT, *options, *COMMAND, ON_CREATE="FAILED")
    assert done.returncode == exits.RESTART, done.stderr
    assert verbs(cloud, "create") == ["queued-resources create"] * 3


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
