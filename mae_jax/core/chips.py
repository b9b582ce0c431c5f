"""The one table of chips: what each can do per jax device, and what computes a network's parts there by default.

Peaks and bandwidths are the makers' (cloud.google.com/tpu/docs/{v3,v4,v5e,v5p-training,v6e}; Jouppi et al. 2023,
arXiv 2304.01433, Table 4, for the links of v3 and v4; NVIDIA's data sheets of A100, H100 and H200, dense, SXM but where
a name says PCIe). All are bytes or FLOP per second and jax device: a v3 device is one core of the chip's two.
"""

import dataclasses
from typing import Any, Literal

Attention = Literal["auto", "einsum", "deferred", "xla", "cudnn", "pallas", "lanes", "triton"]
Norm = Literal["auto", "xla", "triton"]

GIB = 2**30
GB = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of device.

    Attributes:
      name: as in an AOT topology ("v5e") or NVIDIA's ("H100").
      kinds: what `jax.Device.device_kind` may hold that tells this chip (the longest that fits decides).
      family: "tpu" or "gpu".
      peak_flops: dense bfloat16 FLOP/s.
      hbm_bytes: memory, before what compiler and runtime keep for themselves (TPU v5e: 15.75 of 16 GiB are left).
      hbm_bandwidth: bytes/s.
      ici_bandwidth: bytes/s out of the device in one direction, all its ICI or NVLink links together; half of what
        the makers call bidirectional.
      dcn_bandwidth: bytes/s out of the device over the data centre's network (the host's NICs shared among its
        devices); None where slices or hosts are not joined so.
      fp8_flops: dense float8 FLOP/s where the matrix units multiply float8; None where they do not.
    """

    name: str
    kinds: tuple[str, ...]
    family: Literal["tpu", "gpu"]
    peak_flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    ici_bandwidth: float
    dcn_bandwidth: float | None
    fp8_flops: float | None = None


CHIPS: tuple[Chip, ...] = (
    # 123 TFLOP/s, 32 GiB, 900 GB/s and 4 links of 70 GB/s per chip: half of each per device. No multislice.
    Chip("v3", ("TPU v3",), "tpu", 61.5e12, 16 * GIB, 450 * GB, 140 * GB, None),
    # 6 links of 50 GB/s. DCN per chip is not published; v5p's (50 Gbit/s) is taken.
    Chip("v4", ("TPU v4",), "tpu", 275e12, 32 * GIB, 1200 * GB, 300 * GB, 6.25 * GB),
    # 400 GB/s bidirectional; DCN 6.4 Tbit/s per pod of 256.
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), "tpu", 197e12, 16 * GIB, 819 * GB, 200 * GB, 3.125 * GB),
    # 1200 GB/s bidirectional; DCN 50 Gbit/s per chip. float8 runs at bfloat16's rate, so it is no gain.
    Chip("v5p", ("TPU v5", "TPU v5p"), "tpu", 459e12, 95 * GIB, 2765 * GB, 600 * GB, 6.25 * GB),
    # 800 GB/s bidirectional; DCN 25.6 Tbit/s per pod of 256.
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), "tpu", 918e12, 32 * GIB, 1638 * GB, 400 * GB, 12.5 * GB),
    # NVLink 600 (A100) or 900 GB/s bidirectional; one NIC of 200 or 400 Gbit/s per GPU, as in DGX.
    Chip("A100", ("A100",), "gpu", 312e12, 80 * GB, 2039 * GB, 300 * GB, 25 * GB),
    Chip("A100-40GB", ("A100-SXM4-40GB", "A100-PCIE-40GB"), "gpu", 312e12, 40 * GB, 1555 * GB, 300 * GB, 25 * GB),
    Chip("H100", ("H100",), "gpu", 989e12, 80 * GB, 3350 * GB, 450 * GB, 50 * GB, 1979e12),
    Chip("H100-PCIe", ("H100 PCIe",), "gpu", 756e12, 80 * GB, 2000 * GB, 300 * GB, 50 * GB, 1513e12),
    Chip("GH200", ("GH200",), "gpu", 989e12, 96 * GB, 4000 * GB, 450 * GB, 50 * GB, 1979e12),
    Chip("H200", ("H200",), "gpu", 989e12, 141 * GB, 4800 * GB, 450 * GB, 50 * GB, 1979e12),
)  # fmt: skip


def chip(name: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind` ("TPU v5 lite", "NVIDIA H200") or of an AOT topology ("v5e:4x4", "v5e").

    None for what is not in the table, as a CPU.
    """
    short = name.split(":")[0]
    for known in CHIPS:
        if known.name == short:
            return known
    named = [(len(kind), known) for known in CHIPS for kind in known.kinds if kind in name]
    return max(named, key=lambda pair: pair[0])[1] if named else None


def family_of(device: Any) -> str:
    """ "cpu", "gpu" or "tpu" of a device, also one that is only a description."""
    known = chip(device.device_kind)
    return known.family if known else {"tpu": "tpu", "gpu": "gpu", "cuda": "gpu"}.get(device.platform, "cpu")


def peak_flops(kind: str) -> float | None:
    """Peak dense bf16 FLOP/s of a `jax.Device.device_kind`, or None for a chip that is not in the table (a CPU)."""
    found = chip(kind)
    return None if found is None else found.peak_flops


def mfu(rate: float, step_flops: float, kind: str, devices: int) -> float | None:
    """Model FLOPs utilisation: samples/s x FLOPs of a step per sample (`Cost.step`) / peak of all devices."""
    peak = peak_flops(kind)
    return None if peak is None else rate * step_flops / (peak * devices)


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What computes a network's parts where the config says "auto": what is tried at the start of a run, in this order.

    Attributes:
      attention: mesh.attention (nets/attention_kinds.py).
      norm: mesh.norm (nets/norm_kernel.py).
      evidence: the measurement behind each, or why there is none.
    """

    attention: tuple[Attention, ...]
    norm: tuple[Norm, ...]
    evidence: str


DEFAULTS: dict[str, Defaults] = {
    "cpu": Defaults(
        ("deferred", "einsum"),
        ("xla",),
        "attention forward and backward, 4 x 197 tokens, 16 heads of 32, one core, in alternation: "
        "deferred 34 ms, einsum 48, xla 68 (docs/speed.md)",
    ),
    "tpu": Defaults(
        ("einsum",),
        ("xla",),
        "seconds not measured: no TPU was lent; pallas and lanes stay off until seen to win "
        "(the compiler estimates that lanes takes 0.57 of a scanned ViT-L step's cycles: docs/speed.md)",
    ),
    "gpu": Defaults(
        ("triton", "cudnn", "einsum"),
        ("triton", "xla"),
        "H200, bfloat16, ViT-B step, batch 512 (docs/speed.md): einsum 132.9 ms, cudnn 102.9, cudnn with the norm "
        "kernel 90.7, triton for both 84.1; attention, 512 x 50 tokens, 16 heads of 64, forward and backward: 288 us, "
        "cudnn 562 and its copies; of 512 x 197 tokens, 16 heads of 32: 2200 us, cudnn 1896 and 460 for copies",
    ),
}


def defaults(of: Chip | str | None) -> Defaults:
    """The defaults of a chip, of a family's name, or of what is not in the table (None: a CPU's)."""
    family = of if isinstance(of, str) else "cpu" if of is None else of.family
    return DEFAULTS[family]
