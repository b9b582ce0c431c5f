#!/usr/bin/env python3
"""Run a command on GKE as a JobSet: TPU slices or GPU nodes.

    python launch/gke/jobset.py tpu --name mae --image IMAGE --claim CLAIM --accelerator tpu-v5-lite-podslice \\
        --topology 4x4 -- mae_jax train --config configs/mae/vit_b16_imagenet.py --workdir /mnt/work/run
    python launch/gke/jobset.py gpu --name mae --image IMAGE --claim CLAIM --accelerator nvidia-h100-80gb --nodes 4 \\
        -- mae_jax train ...

The image is that of launch/Dockerfile.tpu or Dockerfile.gpu; CLAIM is a PersistentVolumeClaim that all pods can write
(ReadWriteMany), mounted at /mnt/work: data and --workdir lie there. The cluster needs JobSet (v0.6 or later) and a node
pool of that accelerator.

A pod that ends with 1, 2, 3 or 4 (mae_jax/core/exits.py: starting again will not help) ends the JobSet; any other
status but 0 makes JobSet start all pods again, --restarts times, and the same command resumes from the newest
checkpoint. A pod that is moved gets SIGTERM and --grace seconds to save. A spot machine that is taken away has notice
of 30 seconds, of which pods get about 15 at best: what was done since the last checkpoint may be lost
(checkpoint.every).

A JobSet of this name that is there already, finished or not, is an error: delete it first.

A JobSet holds its nodes, and they cost, until it ends or is deleted: kubectl delete jobset NAME. Node pools cost by
themselves while they have nodes: let them scale to zero.
"""

import argparse
import json
import math
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also where mae_jax is not installed

from mae_jax.core.exits import BAD_INPUT, FAILED, GIVEN_UP, TOO_LARGE  # noqa: E402

HERE = Path(__file__).parent
NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")  # JobSet adds to it, and a pod's name has 63 characters
# GKE's TPU node labels -> chips of a host in a slice of several hosts.
TPUS = {"tpu-v4-podslice": 4, "tpu-v5-lite-podslice": 4, "tpu-v5p-slice": 4, "tpu-v6e-slice": 4}
PORT = 1234


class Refused(Exception):
    """Wrong arguments, before anything is started."""


def tpu_hosts(accelerator: str, topology: str) -> tuple[int, int]:
    """(hosts, chips of each) of a slice; one host where its chips are at most 8 (v5e, v6e) or 4."""
    if accelerator not in TPUS:
        raise Refused(f"--accelerator={accelerator}: GKE's label of a TPU is expected, one of {', '.join(TPUS)}.")
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", topology):
        raise Refused(f"--topology={topology}: chips along each side are expected, as 4x4 or 2x2x4.")
    sides = [int(n) for n in topology.split("x")]
    wanted = 2 if accelerator in ("tpu-v5-lite-podslice", "tpu-v6e-slice") else 3
    if len(sides) != wanted:
        raise Refused(f"--topology={topology}: {accelerator} has {wanted} sides.")
    chips, each = math.prod(sides), TPUS[accelerator]
    if chips <= each or (wanted == 2 and topology == "2x4"):
        return 1, chips
    if chips % each:
        raise Refused(f"--topology={topology} has {chips} chips, which hosts of {each} cannot share.")
    return chips // each, each


def pods(args: argparse.Namespace) -> int:
    """Of the JobSet; kubectl follows the logs of five only, where it is not told how many."""
    return args.slices * tpu_hosts(args.accelerator, args.topology)[0] if args.kind == "tpu" else args.nodes


def manifest(args: argparse.Namespace) -> str:
    """The JobSet's YAML. Every value is put in as JSON, which YAML reads, so nothing needs quoting by hand."""
    command = [a.replace("$(", "$$(") for a in args.command]  # Kubernetes would put in variables itself
    env = [{"name": "PYTHONUNBUFFERED", "value": "1"}]
    if args.kind == "tpu":
        hosts, chips = tpu_hosts(args.accelerator, args.topology)
        selector = {"cloud.google.com/gke-tpu-accelerator": args.accelerator,
                    "cloud.google.com/gke-tpu-topology": args.topology}  # fmt: skip
        resource = "google.com/tpu"
    else:
        hosts, chips = args.nodes, args.gpus
        selector = {"cloud.google.com/gke-accelerator": args.accelerator}
        resource = "nvidia.com/gpu"
        if hosts > 1:
            index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
            env.append({"name": "INDEX", "valueFrom": {"fieldRef": {"fieldPath": index}}})  # type: ignore[dict-item]
            address = f"{args.name}-nodes-0-0.{args.name}:{PORT}"  # the first pod's name in the JobSet's own domain
            command += ["--coordinator", address, "--processes", str(hosts), "--process-id", "$(INDEX)"]
    tolerations = [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}]
    if args.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        tolerations.append(spot)
    values = {
        "name": args.name, "namespace": args.namespace, "restarts": args.restarts, "slices": getattr(args, "slices", 1),
        "hosts": hosts, "chips": chips, "final": [FAILED, BAD_INPUT, TOO_LARGE, GIVEN_UP], "grace": args.grace,
        "node_selector": selector, "tolerations": tolerations, "image": args.image, "claim": args.claim,
        "command": command, "env": env,
    }  # fmt: skip
    template = string.Template((HERE / f"{args.kind}.yaml").read_text())
    head, _, body = template.template.partition("\n")  # the comment at the top speaks of the template
    return string.Template(body).substitute({key: json.dumps(value) for key, value in values.items()})


def parse(argv: Sequence[str]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("jobset.py", description=__doc__, formatter_class=raw)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="tpu|gpu")
    for kind in ("tpu", "gpu"):
        own = kinds.add_parser(kind, description=__doc__, formatter_class=raw)
        own.add_argument("--name", required=True, help="of the JobSet")
        own.add_argument("--image", required=True, help="with a tag or digest, as REGISTRY/mae_jax:1")
        own.add_argument("--claim", required=True, help="PersistentVolumeClaim, mounted at /mnt/work")
        own.add_argument("--accelerator", required=True, help="GKE's label, as tpu-v6e-slice or nvidia-h100-80gb")
        if kind == "tpu":
            own.add_argument("--topology", required=True, help="as 4x4 or 2x2x4")
            own.add_argument("--slices", type=int, default=1, help="default 1")
        else:
            own.add_argument("--nodes", type=int, required=True)
            own.add_argument("--gpus", type=int, default=8, help="of each node (default 8)")
        own.add_argument("--namespace", default="default")
        own.add_argument("--restarts", type=int, default=100, help="default 100")
        own.add_argument("--grace", type=int, default=300, metavar="SECONDS", help="default 300")
        own.add_argument("--spot", action="store_true", help="nodes that may be taken away")
        own.add_argument("--dry-run", action="store_true", help="print the YAML and the command, and start nothing")
    argv = list(argv)
    at = argv.index("--") if "--" in argv else len(argv)
    args = parser.parse_args(argv[:at])
    args.command = argv[at + 1 :]
    check(args)
    return args


def check(args: argparse.Namespace) -> None:
    """Raise Refused where anything is missing or wrong."""
    for key in ("name", "namespace", "claim"):
        if not NAME.fullmatch(getattr(args, key)):
            raise Refused(f"--{key}={getattr(args, key)}: small letters, digits and - are expected, at most 40.")
    if not re.search(r"[^/:]+(:[\w.-]+|@sha256:[0-9a-f]{64})$", args.image):
        raise Refused(f"--image={args.image}: a tag or digest is missing; what runs must be what resumes.")
    if args.kind == "tpu":
        tpu_hosts(args.accelerator, args.topology)
    elif not args.accelerator.startswith("nvidia-"):
        raise Refused(f"--accelerator={args.accelerator}: GKE's label of a GPU is expected, as nvidia-h100-80gb.")
    numbers = {"--restarts": args.restarts + 1, "--grace": args.grace}
    numbers |= {"--slices": args.slices} if args.kind == "tpu" else {"--nodes": args.nodes, "--gpus": args.gpus}
    if bad := [key for key, value in numbers.items() if value < 1]:
        raise Refused(f"{bad[0]} is too small.")
    if not args.command:
        raise Refused("no command: give it after --, as in: -- mae_jax train --config C --workdir /mnt/work/run")
    words = [word.split("=")[0] for word in args.command]
    if given := {"--coordinator", "--processes", "--process-id"} & set(words):
        raise Refused(f"{min(given)} is what jobset.py adds itself; leave it out of the command.")
    if Path(args.command[0]).name == "mae_jax":
        workdir = next((value for flag, value in zip(words, args.command[1:]) if flag in ("--workdir", "--out")), None)
        workdir = next((a.split("=", 1)[1] for a in args.command if a.startswith(("--workdir=", "--out="))), workdir)
        if workdir is None or not workdir.startswith("/mnt/work/"):
            raise Refused(f"--workdir={workdir or ''} must be under /mnt/work, or nothing could resume.")


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        # Not apply: of a JobSet that is there and has ended it would make nothing, and call that success.
        create = ["kubectl", "create", "-f", "-"]
        text = manifest(args)
        if args.dry_run:
            print(f"{text.rstrip()}\n# {shlex.join(create)}")
            return 0
        if shutil.which("kubectl") is None:
            raise Refused("there is no kubectl here.")
    except Refused as error:
        print(f"jobset.py: {error}", file=sys.stderr)
        return BAD_INPUT
    done = subprocess.run(create, input=text, text=True)
    space = f"-n {args.namespace}"
    if done.returncode == 0:
        print(f"watch:  kubectl {space} get jobset {args.name} -w\n"
              f"logs:   kubectl {space} logs -f -l jobset.sigs.k8s.io/jobset-name={args.name} --prefix "
              f"--max-log-requests={pods(args)}\n"
              f"delete: kubectl {space} delete jobset {args.name}   (its nodes cost until then)")  # fmt: skip
    else:
        print(f"jobset.py: kubectl made no JobSet. Where {args.name} is there already, delete it first: "
              f"kubectl {space} delete jobset {args.name}", file=sys.stderr)  # fmt: skip
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
