# shellcheck shell=bash
# The TPU itself: whether it is there, asking for it, waiting, deleting. tpu_vm.sh reads this file, and sets what is in
# capitals.

# What gcloud says of a thing; nothing where there is no such thing, and on a dry run, which prints the command. Other
# errors (the network, permissions) are tried again, and then are ours: as "not there" they would create another.
ask() {
  local errors tries=0
  if [ -n "$DRY" ]; then
    { quote "$@" && echo; } >&3
    return
  fi
  errors=$(mktemp)
  while ! "$@" 2>"$errors" 3>&-; do
    ! grep -qiE 'NOT_FOUND|not found' "$errors" || break
    tries=$((tries + 1))
    if [ "$tries" -ge 5 ]; then
      cat "$errors" >&2
      rm -f "$errors"
      return 1
    fi
    sleep "$POLL"
  done
  rm -f "$errors"
}

state_of_queue() { ask gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" '--format=value(state.state)'; }
state_of_node() { ask gcloud compute tpus tpu-vm describe "$NAME" "${WHERE[@]}" '--format=value(state)'; }
type_of_node() { ask gcloud compute tpus tpu-vm describe "$NAME" "${WHERE[@]}" '--format=value(acceleratorType)'; }

# Run a command until it succeeds, TRIES times.
again() {
  local failed=0
  until "$@"; do
    failed=$((failed + 1))
    [ "$failed" -lt "${TRIES:?}" ] || return 1
    sleep "$POLL"
  done
}

# Refuse what is there in the place of what was asked for. $1, $2: the states of the node and of the queued resource.
as_asked() {
  local kind='' queued=''
  [ -z "$1" ] || kind=$(type_of_node) || return 1
  if [ -n "$2" ]; then
    queued=$(ask gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" \
      '--format=json(spot,tpu.nodeSpec[0].node.acceleratorType)') || return 1
    [ -n "$kind" ] || kind=$(grep -o '"acceleratorType": "[^"]*"' <<<"$queued" | cut -d '"' -f 4) || :
    [ -n "$SPOT" ] || [[ $queued != *'"spot"'* ]] ||
      refuse "$NAME was asked for with --spot and may be taken away: add --spot, or take another --name."
    [ -z "$SPOT" ] || [[ $queued == *'"spot"'* ]] ||
      refuse "$NAME was asked for without --spot, at the full price: leave --spot out, or take another --name."
  fi
  [ -z "$kind" ] || [ "${kind##*/}" = "${TYPE:?}" ] ||
    refuse "$NAME is there as ${kind##*/}, and --type is $TYPE: another --name?"
  [[ ! $1 =~ ^STOPP(ED|ING)$ ]] ||
    refuse "$NAME is $1, by somebody's wish, and keeps its disks: gcloud compute tpus tpu-vm start $NAME ${WHERE[*]} \
has it ready again, and tpu_vm.sh delete --name $NAME ${WHERE[*]} --yes gives it up."
}

# Ask for the TPU, for so long as it is waited for: one that comes later would cost, and nobody would know. What fails on
# the way may have been heard all the same.
requested() {
  local node queue spot=() limit=()
  [ -z "$SPOT" ] || spot=(--spot)
  [ "$WAIT" -eq 0 ] || limit=("--valid-until-duration=${WAIT}s")
  if [ -n "$DIRECT" ]; then
    run gcloud compute tpus tpu-vm create "$NAME" "${WHERE[@]}" "--accelerator-type=$TYPE" "--version=$VERSION" \
      ${spot[@]+"${spot[@]}"} && return
  else
    run gcloud compute tpus queued-resources create "$NAME" "${WHERE[@]}" "--node-id=$NAME" "--accelerator-type=$TYPE" \
      "--runtime-version=$VERSION" ${limit[@]+"${limit[@]}"} ${spot[@]+"${spot[@]}"} && return
  fi
  node=$(state_of_node) && queue=$(state_of_queue) && [ -n "$node$queue" ]
}

# Returns 0 when it is ready; 100 when it failed or was taken away meanwhile.
create() {
  local node queue until=$((SECONDS + WAIT))
  node=$(state_of_node) && queue=$(state_of_queue) || return 1
  as_asked "$node" "$queue" || return 1
  if taken "$node" || [[ $queue =~ ^(FAILED|SUSPENDED)$ ]]; then
    say "$NAME was taken away or failed (${node:-no node}, ${queue:-no queued resource}); it is deleted"
    again removed || return 1
    node='' queue=''
  fi
  if [ -n "$node$queue" ]; then
    say "$NAME is there (${node:-queued: $queue}): attached"
  else
    again requested || return 1
  fi
  wait_ready "$until"
}

taken() { [[ $1 =~ ^(PREEMPTED|TERMINATED)$ ]]; }

# $1: when waiting ends, in SECONDS.
wait_ready() {
  local node queue absent=0
  while :; do
    node=$(state_of_node) || node='no answer' # the network may be down for a while
    [ -z "$DRY" ] && [ "$node" != READY ] || break
    queue=$(state_of_queue) || queue='no answer'
    if [ "$SECONDS" -ge "$1" ]; then
      say "$NAME is not ready after $WAIT s (${node:-no node}, ${queue:-not queued}). What was asked for without \
a limit (--wait 0, or not by this script) may still come, and cost: tpu_vm.sh delete --name $NAME ${WHERE[*]} --yes"
      return 1
    fi
    if [[ $queue =~ ^(FAILED|SUSPENDED)$ ]]; then
      say "the queued resource is $queue; gcloud compute tpus queued-resources describe $NAME says why"
      return 100
    fi
    [ -z "$node$queue" ] && absent=$((absent + 1)) || absent=0
    if taken "$node" || [ "$absent" -ge 2 ]; then
      say "$NAME was taken away, or deleted elsewhere (${node:-no node})"
      return 100
    fi
    if [[ $node =~ ^STOPP(ED|ING)$ ]]; then
      say "$NAME is $node: somebody stopped it"
      return 1
    fi
    say "waiting for $NAME: ${node:-no node yet}, queue ${queue:-none}"
    sleep "$POLL"
  done
  [ -n "$DRY" ] || say "$NAME is ready, and costs from now on until it is deleted"
}

# Delete what is there of the name: the queued resource with its node, or the node alone.
remove() {
  local queue
  queue=$(state_of_queue) || return 1
  if [ -n "$DRY" ] || [ -n "$queue" ]; then
    run gcloud compute tpus queued-resources delete "$NAME" "${WHERE[@]}" --force --quiet
  else
    run gcloud compute tpus tpu-vm delete "$NAME" "${WHERE[@]}" --quiet
  fi
}

# Remove it; true as well where it is gone though that failed.
removed() {
  local node queue
  remove || { node=$(state_of_node) && queue=$(state_of_queue) && [ -z "$node$queue" ]; }
}

# Returns 0 when the TPU was taken away, 2 when somebody stopped it, else 1.
lost() {
  local node
  node=$(state_of_node) || return 1
  [ -z "$DRY" ] || return 1
  case $node in
    '' | PREEMPTED | TERMINATED) say "the TPU was taken away (${node:-it is not there any more})" ;;
    STOPPED | STOPPING)
      say "the TPU is $node: somebody stopped it. gcloud compute tpus tpu-vm start $NAME ${WHERE[*]}"
      return 2
      ;;
    *) return 1 ;;
  esac
}
