#!/usr/bin/env bash
# Cloud TPU VMs: create or attach, install, run inside tmux on every worker, watch, create again. See --help.
# shellcheck disable=SC2034 # tpu_cloud.sh and tpu_remote.sh read what is set here
set -euo pipefail

# Exit statuses of mae_jax (mae_jax/core/exits.py).
DONE=0 BAD_INPUT=2 RESTART=75 INTERRUPTED=143
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/tpu_remote.sh"
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/tpu_cloud.sh"

usage() {
  cat <<'TEXT'
usage: launch/tpu_vm.sh COMMAND --name NAME --zone ZONE --project PROJECT [options] [-- mae_jax train ...]

  create     queue for a TPU and wait until it is there; one of this name that is there already is attached to
  install    this checkout (its last commit) and its requirements on all workers; mounts --bucket
  run        start the command after -- on all workers, inside tmux; it goes on when this terminal is closed
  logs       follow what --worker prints (0 by default)
  status     the state of the TPU, and of the run on it
  stop       SIGTERM to the run on all workers: it saves a checkpoint and ends; the TPU stays, and costs
  delete     delete the TPU with everything on its disks; needs --yes
  train      all of it: create or attach, install, run, watch; a TPU that was taken away (spot) is created again, and
             the same command resumes from the newest checkpoint of --workdir; ends with the status of the run

create, train:
  --type TYPE          accelerator type, as v5litepod-16, v4-32, v6e-8                        (required)
  --version VERSION    software version of the TPU, as v2-alpha-tpuv5-lite, v2-alpha-tpuv6e   (required)
  --spot               cheaper; may be taken away at any time
  --direct             ask for it at once in the place of queueing
  --wait SECONDS       how long to wait for it; the queued request ends then (default 86400; 0: it does not end)
install, train:
  --bucket gs://NAME   mounted at /mnt/bucket on all workers with gcsfuse
  --source DIR         a checkout of mae_jax (default: the one that this script is in)
run, train:
  --restarts N         starts on the spot after status 75 or 143, or when a process was lost (default 20)
  --workdir-is-shared  the --workdir of the command is seen by all workers, though it is not under /mnt
train:
  --recreate N         times that a TPU is created again, or set up again (default 20)
  --delete-when-done   delete the TPU when the run has ended with status 0
all:
  --poll SECONDS       between two looks (default 30)
  --dry-run            print every command, run none
  --help

Several workers: gcloud needs your key in the ssh agent, where one runs: ssh-add ~/.ssh/google_compute_engine

A TPU VM costs money from the moment it is there until it is deleted, whether anything runs on it or not:
`tpu_vm.sh delete`, and `gcloud compute tpus tpu-vm list --zone ZONE` shows what is left.
TEXT
}

refuse() {
  printf 'tpu_vm.sh: %s\n' "$1" >&2
  exit "$BAD_INPUT"
}

say() { printf 'tpu_vm.sh: %s\n' "$1" >&2; }

# Run a command, or print it.
run() {
  if [ -n "$DRY" ]; then
    quote "$@" && echo
  else
    "$@" 3>&-
  fi
}

ssh_all() { run "${SSH[@]}" --worker=all --command="$1"; }

install() {
  local archive copied=0
  archive=$(mktemp -u "${TMPDIR:-/tmp}/mae_jax_XXXXXX.tar.gz")
  [ -z "$(git -C "$SOURCE" status --porcelain 2>/dev/null)" ] || say "changes that are not committed are not installed"
  run git -C "$SOURCE" archive --format=tar.gz -o "$archive" HEAD || return 1
  run gcloud compute tpus tpu-vm scp "$archive" "$NAME:mae_jax.tar.gz" "${WHERE[@]}" --worker=all || copied=$?
  run rm -f "$archive"
  [ "$copied" -eq 0 ] || return 1
  ssh_all "$(install_text)" || return 1
  [ -n "$BUCKET" ] || return 0
  ssh_all "$(mount_text "${BUCKET#gs://}")"
}

start() { ssh_all "$(start_text "$RESTARTS" "$(workdir_of "$@")" "$@")"; }

# What the workers say of the run, as one word; nothing where not all of them answer.
#   STATUS   one that starting again does not help, of any worker; or that of the run, where it has ended on all of them
#   none     there is no run on one of them
#   running  it has not ended on all of them
# STATUS+ and none+: elsewhere it still runs, or may.
state_of_run() {
  local look=("${SSH[@]}" --worker=all "--command=$(look_text)") answers words='' silent='' more='' status
  if [ -n "$DRY" ]; then
    ask "${look[@]}"
    return
  fi
  answers=$("${look[@]}" 2>"$ERRORS" 3>&-) || silent=1
  words=" $(grep -oE 'mae_jax_run=([0-9]+|running|none)' <<<"$answers" | cut -d= -f2 | tr '\n' ' ' || :)"
  [[ -z $silent && $words != *running* ]] || more=+
  # shellcheck disable=SC2086
  for status in $BAD_INPUT 3 4 $words; do
    [[ $words == *" $status "* && ! $status =~ ^($DONE|$RESTART|$INTERRUPTED|13[4-9]|running|none)$ ]] || continue
    echo "$status$more" && return
  done
  [ -z "$silent" ] || return 0
  for status in none running "$RESTART" "$INTERRUPTED" 134 135 136 137 138 139 "$DONE"; do
    [[ $words == *" $status "* ]] || continue
    [ "$status" != none ] || status+=$more
    echo "$status" && return
  done
}

# Where nothing runs it does nothing.
stop() { ssh_all "$(stop_text)"; }

# What the workers say, once they answer. That they do not is no reason to set up anything: a run may be under way. $1:
# looks before it is given up, and 1 returned; 100 when the TPU was taken away.
answer() {
  local state gone looks=0
  while :; do
    state=$(state_of_run)
    [ -z "$DRY$state" ] || break
    lost && gone=0 || gone=$?
    [ "$gone" -ne 0 ] || return 100
    [ "$gone" -ne 2 ] || return 1
    looks=$((looks + 1))
    [ "$looks" -ne 3 ] || say "not all workers answer; what gcloud said last: $(tail -n 3 "$ERRORS")"
    [ "$looks" -ne "$1" ] || return 1
    sleep "$POLL"
  done
  echo "$state"
}

# Returns when the run has ended, with its status; 100 when the TPU was taken away, or has lost the run.
watch() {
  local state missing=0
  while :; do
    state=$(answer 0) || return
    [ -z "$DRY" ] || return 0
    case $state in
      running) missing=0 ;;
      none*)
        missing=$((missing + 1))
        if [ "$missing" -ge 2 ]; then
          say "a worker has lost the run: it was started anew, for maintenance or a fault"
          return 100
        fi
        ;;
      *+)
        say "a worker ended with status ${state%+}, which starting again does not help: the others are stopped"
        stop || say "not all could be stopped"
        return "${state%+}"
        ;;
      *) return "$state" ;;
    esac
    sleep "$POLL"
  done
}

# Create or attach, install, start, watch once; returns as `watch` does.
attempt() {
  local state tries=0
  create || return
  while :; do
    state=$(answer 20) || return
    if [ "$state" = running ] && [ "$tries" -eq 0 ]; then
      say "a run is under way on $NAME: watched"
      break
    fi
    # All start together: where some have a run, or a start failed half way, it is stopped first.
    if { [[ $state != *+ && $tries -eq 0 ]] || stop; } && install && start "$@"; then
      break
    fi
    ! lost || return 100
    tries=$((tries + 1))
    if [ "$tries" -ge "$TRIES" ]; then
      say "it could not be started; what the workers said is above"
      return 1
    fi
    sleep "$POLL"
  done
  watch
}

train() {
  local again=0 status
  while :; do
    attempt "$@" && status=0 || status=$?
    [ "$status" -eq 100 ] || break
    if [ "$again" -ge "$RECREATE" ]; then
      say "it was set up again $RECREATE times (--recreate)"
      status=$RESTART
      break
    fi
    again=$((again + 1))
    say "setting $NAME up again ($again of at most $RECREATE); the same command resumes"
    sleep "$POLL"
  done
  [ -n "$DRY" ] || say "ended with status $status"
  if [ -n "$DELETE" ] && [ "$status" -eq "$DONE" ]; then
    again removed || say "it could not be deleted, AND COSTS: tpu_vm.sh delete --name $NAME ${WHERE[*]} --yes"
  elif [ -z "$DRY" ]; then
    say "what is there of $NAME costs until it is deleted: tpu_vm.sh delete --name $NAME ${WHERE[*]} --yes"
  fi
  return "$status"
}

# The last value of an option ($1, or its other name $2) in a command ($3 ...).
value_of() {
  local one=$1 other=$2 found=''
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      "$one="* | "$other="*) found=${1#*=} ;;
      "$one" | "$other") found=${2:-} ;;
    esac
    shift
  done
  printf '%s' "$found"
}

workdir_of() { value_of --workdir --out "$@"; }

config_of() {
  local found
  found=$(value_of --config --config "$@")
  printf '%s' "${found%%:*}"
}

NAME='' ZONE='' PROJECT='' TYPE='' VERSION='' SPOT='' DIRECT='' WAIT=86400 BUCKET='' RESTARTS=20 SHARED=''
RECREATE=20 DELETE='' POLL=30 TRIES=5 DRY='' YES='' WORKER=0
SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VERB=${1:-}
case $VERB in
  create | install | run | logs | status | stop | delete | train) shift ;;
  --help | -h) usage && exit 0 ;;
  *) refuse "${VERB:-nothing} is none of create, install, run, logs, status, stop, delete, train; see --help." ;;
esac
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --spot) SPOT=1 && shift && continue ;;
    --direct) DIRECT=1 && shift && continue ;;
    --workdir-is-shared) SHARED=1 && shift && continue ;;
    --delete-when-done) DELETE=1 && shift && continue ;;
    --yes) YES=1 && shift && continue ;;
    --dry-run) DRY=1 && shift && continue ;;
    --) shift && break ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --*) ;;
    *) refuse "'$1' is no option. The command comes after --, as in: -- mae_jax train --config C --workdir W" ;;
  esac
  [ $# -ge 2 ] && [ "$2" != -- ] || refuse "$1 has no value; see --help."
  case $1 in
    --name) NAME=$2 ;; --zone) ZONE=$2 ;; --project) PROJECT=$2 ;; --type) TYPE=$2 ;; --version) VERSION=$2 ;;
    --bucket) BUCKET=$2 ;; --source) SOURCE=$2 ;;
    --wait | --restarts | --recreate | --poll | --worker)
      [[ $2 =~ ^[0-9]+$ ]] || refuse "$1 is a number, and not '$2'."
      case $1 in
        --wait) WAIT=$2 ;; --restarts) RESTARTS=$2 ;; --recreate) RECREATE=$2 ;; --poll) POLL=$2 ;; *) WORKER=$2 ;;
      esac
      ;;
    *) refuse "there is no option $1; see --help. Options of the command come after --." ;;
  esac
  shift 2
done

# Everything is checked before the first command that could cost anything.
[[ $NAME =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] || refuse "--name=$NAME: a name of small letters, digits and - is needed."
[[ $ZONE =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] || refuse "--zone=$ZONE: a zone is needed, as us-central2-b."
[ -n "$PROJECT" ] || refuse "--project is missing: which Google Cloud project pays?"
if [[ $VERB == create || $VERB == train ]]; then
  [[ $TYPE =~ ^(v[234]|v5litepod|v5p|v6e|tpu7x)-[1-9][0-9]*$ ]] ||
    refuse "--type=$TYPE: an accelerator type is needed, as v5litepod-16, v4-32, v5p-8 or v6e-8."
  [ -n "$VERSION" ] || refuse "--version is missing: the software of the TPU, as v2-alpha-tpuv5-lite or v2-alpha-tpuv6e."
fi
[[ -z $BUCKET || $BUCKET =~ ^gs://[a-z0-9][a-z0-9._-]+$ ]] || refuse "--bucket=$BUCKET: gs://NAME is expected."
[ "$VERB" != delete ] || [ -n "$YES" ] || [ -n "$DRY" ] || refuse "delete takes everything on the TPU's disks; add --yes."
if [[ $VERB == install || $VERB == train ]]; then
  [ -f "$SOURCE/setup.cfg" ] || refuse "--source=$SOURCE is no checkout of mae_jax (it has no setup.cfg)."
  git -C "$SOURCE" archive HEAD 2>/dev/null >/dev/null ||
    refuse "--source=$SOURCE: git has no commit of it, and a commit is what is installed: a git clone is needed."
fi
if [[ $VERB == run || $VERB == train ]]; then
  [ $# -gt 0 ] || refuse "no command: give it after --, as in: -- mae_jax train --config C --workdir $MOUNT/run"
  workdir=$(workdir_of "$@")
  for word in "$@"; do
    [[ $word != --coordinator* && $word != --process* ]] || refuse "$word: the workers of a TPU know this; leave it out."
  done
  [ "${1##*/}" != mae_jax ] || [ -n "$workdir" ] || refuse "the command has no --workdir: nothing could resume."
  [ -z "$workdir" ] || [ -n "$SHARED" ] || [[ $workdir == /mnt/* ]] ||
    refuse "--workdir=$workdir is on one worker's disk, which is lost with the TPU: take --bucket gs://NAME and \
--workdir=$MOUNT/run, or say --workdir-is-shared."
  config=$(config_of "$@")
  [[ $VERB != train || -z $config || $config == [/~]* ]] || git -C "$SOURCE" cat-file -e "HEAD:./$config" 2>/dev/null ||
    refuse "--config=$config: the last commit of $SOURCE has no such file, and workers get nothing else. Commit it?"
  [ "$VERB" != train ] || [[ $workdir != "$MOUNT"/* ]] || [ -n "$BUCKET" ] ||
    refuse "--workdir is on $MOUNT, so --bucket gs://NAME is needed."
elif [ $# -gt 0 ]; then
  refuse "$VERB takes no command."
fi
[ -n "$DRY" ] || command -v gcloud >/dev/null || refuse "there is no gcloud here: https://cloud.google.com/sdk/docs/install"

ERRORS=$(mktemp) # what gcloud said when the workers were last asked
trap 'rm -f "$ERRORS"' EXIT
exec 3>&1 # where a dry run prints queries, whose output is read
WHERE=("--zone=$ZONE" "--project=$PROJECT")
SSH=(gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}")
case $VERB in
  create) create || exit 1 ;;
  install) install ;;
  run) start "$@" ;;
  logs) run "${SSH[@]}" "--worker=$WORKER" '--command=tail -n 100 -F ~/mae_jax_run/log' ;;
  status)
    node=$(state_of_node) && queue=$(state_of_queue) || exit 1
    [ -z "$node$DRY" ] || state=$(state_of_run)
    [ -z "$DRY" ] || exit 0
    [ "$node" != READY ] || [ -n "$state" ] || state='not known: not all workers answer'
    echo "TPU ${node:-is not there}, queued resource ${queue:-none}, run ${state:-none}"
    ;;
  stop) stop ;;
  delete) remove ;;
  train) train "$@" ;;
esac
