"""Which accelerators' drivers have left their device files on this host: asked before jax is imported."""

import glob

NODES = {
    "gpu": ("/dev/nvidia[0-9]*", "/dev/kfd"),  # CUDA's and ROCm's drivers
    "tpu": ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*"),
}


def present() -> list[str]:
    """The families of NODES with a device file here, whether or not this process may use it."""
    return [family for family, patterns in NODES.items() if any(glob.glob(pattern) for pattern in patterns)]
