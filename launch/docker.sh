#!/usr/bin/env bash
# Images of launch/Dockerfile.gpu and Dockerfile.tpu: build, push, run. See --help.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/docker.sh build gpu|tpu --image NAME:TAG
       launch/docker.sh push --image NAME:TAG
       launch/docker.sh run gpu|tpu --image NAME:TAG --work DIR [--shm SIZE] -- mae_jax train ... --workdir /mnt/work/run

  --image NAME:TAG   of the image, its registry included
  --work DIR         of this machine, mounted at /mnt/work: data and --workdir lie there
  --shm SIZE         shared memory, for decoding processes (default 16g)
  --dry-run          print the commands, run none
  --help

`run` gives the container all GPUs (or the TPU) of this machine, and docker stop's SIGTERM to the run, which saves; the
same command resumes. Registries charge for what is stored and fetched.
TEXT
}

refuse() {
  printf 'docker.sh: %s\n' "$1" >&2
  exit 2
}

run() {
  if [ -n "$DRY" ]; then
    printf '%q ' "$@" && echo
  else
    command -v docker >/dev/null || refuse "there is no docker here."
    exec "$@"
  fi
}

VERB=${1:-} KIND='' IMAGE='' WORK='' SHM=16g DRY=''
case $VERB in
  --help | -h) usage && exit 0 ;;
  build | run)
    KIND=${2:-}
    [[ $KIND == gpu || $KIND == tpu || $KIND == --help ]] || refuse "$VERB what: gpu or tpu?"
    [[ $KIND != --help ]] || { usage && exit 0; }
    shift 2
    ;;
  push) shift ;;
  *) refuse "${VERB:-nothing} is none of build, push, run; see --help." ;;
esac
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --dry-run) DRY=1 && shift && continue ;;
    --) shift && break ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
  esac
  [ $# -ge 2 ] && [ "$2" != -- ] || refuse "$1 has no value; see --help."
  case $1 in
    --image) IMAGE=$2 ;;
    --work) WORK=$2 ;;
    --shm) SHM=$2 ;;
    *) refuse "there is no option $1; see --help." ;;
  esac
  shift 2
done
[[ $IMAGE =~ ^[a-z0-9][a-z0-9._/:-]*:[A-Za-z0-9_.-]+$ ]] || refuse "--image=$IMAGE: NAME:TAG is expected."
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case $VERB in
  build)
    [ $# -eq 0 ] || refuse "build takes no command."
    run docker build --file "$root/launch/Dockerfile.$KIND" --tag "$IMAGE" "$root"
    ;;
  push) run docker push "$IMAGE" ;;
  run)
    [ -d "$WORK" ] || refuse "--work=$WORK is no directory of this machine."
    [ $# -gt 0 ] || refuse "no command: give it after --, as in: -- mae_jax train --config C --workdir /mnt/work/run"
    workdir=''
    for ((i = 1; i <= $#; i++)); do
      next=$((i + 1))
      case ${!i} in
        --workdir=* | --out=*) workdir=${!i#*=} ;;
        --workdir | --out) workdir=${!next:-} ;;
      esac
    done
    [[ $workdir == /mnt/work/?* || -z $workdir && ! "${1##*/} ${2:-}" =~ ^mae_jax\ (train|finetune|segment)$ ]] ||
      refuse "--workdir=$workdir must be under /mnt/work: all else is lost with the container."
    devices=(--gpus all)
    [ "$KIND" = gpu ] || devices=(--privileged --network host)
    run docker run --rm --init --stop-timeout 300 "${devices[@]}" --shm-size "$SHM" \
      --volume "$(cd "$WORK" && pwd):/mnt/work" "$IMAGE" "$@"
    ;;
esac
