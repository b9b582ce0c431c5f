"""A stand-in cloud for launch/tpu_vm.sh: one TPU of two workers, each with a home, a shell and a tmux."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from stand_ins import LIMIT, ROOT, StandIns

SCRIPT = ROOT / "launch/tpu_vm.sh"
AT = ("--name", "mae", "--zone", "us-central2-b", "--project", "lab")
TYPE = ("--type", "v4-32", "--version", "tpu-ubuntu2204-base")
COMMAND = ("--", "mae_jax", "train", "--config", "c.py", "--workdir", "/mnt/bucket/run")
BUCKET = (*TYPE, "--bucket", "gs://bucket", "--poll", "0")
WHERE = ["--zone=us-central2-b", "--project=lab"]
# A cloud with one TPU of two workers. Files: node, queue (their states; missing: not there), broken (every call fails).
# Worker k has the home w$k; ssh runs its command there as sshd does, by a shell. Of the lines of w$k/deaf
# each is for one command: it is not answered where y is said; asking
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
      if [ -s w$k/deaf ]; then
        said=$(head -n 1 w$k/deaf)
        sed -i 1d w$k/deaf
        if [ "$said" = y ]; then worst=255; continue; fi
      fi
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
  has-session)  # one that has ended may wait for a lazy init to take note of it
    [ -e "$HOME/session" ] && state=$(cat "/proc/$(cat "$HOME/session")/stat" 2>/dev/null) &&
      [[ $state != *") Z "* ]] ;;
  new-session)
    rm -f "$HOME/session"
    start='echo $$ >"$HOME/session.new" && mv "$HOME/session.new" "$HOME/session"; exec bash -c "$1"'
    setsid bash -c "$start" - "${@: -1}" >>"$HOME/screen" 2>&1 </dev/null &
    until [ -e "$HOME/session" ]; do /bin/sleep 0.01; done
    ;;
esac
"""


@contextlib.contextmanager
def stand_in_cloud(folder: Path) -> Iterator[StandIns]:
    programs = {
        "gcloud": GCLOUD, "tmux": TMUX, "sleep": "exec /bin/sleep 0.01", "mae_jax": '. "$STAND_INS/task"',
        "git": '[ "$4" != --format=tar.gz ] || echo x >"${@: -2:1}"', "sudo": "", "findmnt": 'cat "$HOME/mounted"',
        "gcsfuse": 'echo "${@: -2:1}" >"$HOME/mounted"', "mountpoint": '[ -e "$HOME/mounted" ]',
    }  # fmt: skip
    found = StandIns(folder, **programs)
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
