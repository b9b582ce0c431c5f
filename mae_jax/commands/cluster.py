"""Whether this process is one of several that a scheduler or a cloud has started: asked before jax is imported."""

import os
import re
import urllib.error
import urllib.request

from mae_jax.core import drivers

PATIENCE = 5.0  # seconds for the metadata server, which is on the host itself


def several_processes() -> bool:
    """Whether Slurm's tasks or the hosts of a Cloud TPU slice (or of several slices) form one run.

    jax finds their addresses by itself, but only where `jax.distributed.initialize` is called; on one host that would
    wait for nobody, and on hosts without such a cluster it fails.
    """
    environment = os.environ
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        return True
    if int(environment.get("MEGASCALE_NUM_SLICES", "1")) > 1:
        return True
    names = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")  # GKE
    if names:
        return "," in names
    # A TPU VM says nothing in the environment: its metadata server knows.
    if environment.get("TPU_SKIP_MDS_QUERY") or "tpu" not in drivers.present():
        return False
    slices = re.search(r"^MEGASCALE_NUM_SLICES:\s*'?(\d+)", metadata("tpu-env"), re.MULTILINE)
    return "," in metadata("worker-network-endpoints") or (slices is not None and int(slices[1]) > 1)


def metadata(attribute: str) -> str:
    """An attribute of this Google Cloud machine; "" where it has none or there is no such server."""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/{attribute}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError, ValueError):
        return ""
