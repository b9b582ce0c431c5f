#!/usr/bin/env bash
# Start one command on every host of a Cloud TPU slice. The processes find each other by themselves.
#   launch/tpu_pod.sh my-tpu us-central2-b 'mae_jax train --config configs/mae/vit_l16_imagenet.py --workdir gs-mount/run ...'
set -euo pipefail
if [ $# -ne 3 ]; then
  echo "usage: $0 TPU_NAME ZONE COMMAND" >&2
  exit 2
fi
gcloud compute tpus tpu-vm ssh "$1" --zone "$2" --worker=all --command "cd mae_jax && $3"
