#!/usr/bin/env bash
# One process per GPU (how jax reads Slurm): sbatch --nodes=4 launch/slurm.sh --config ... --workdir ...
#SBATCH --job-name=mae_jax
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@120
# SIGTERM two minutes before the limit: mae_jax saves a checkpoint, and the same job resumes when it is queued again.
set -euo pipefail
srun mae_jax train "$@"
