"""What the chips can do: the denominators of MFU."""

# Peak dense bfloat16 TFLOP/s per jax device, from the vendors' data sheets. A v3 device is one core of two.
PEAK_TFLOPS = {
    "TPU v3": 61.5,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
    "A100": 312,
    "H100": 989,
    "H200": 989,
}


def peak_flops(kind: str) -> float | None:
    """Peak dense bf16 FLOP/s of a `jax.Device.device_kind`, or None for a chip that is not in the table (a CPU)."""
    named = [name for name in PEAK_TFLOPS if name in kind]
    return PEAK_TFLOPS[max(named, key=len)] * 1e12 if named else None


def mfu(rate: float, step_flops: float, kind: str, devices: int) -> float | None:
    """Model FLOPs utilisation: samples/s x FLOPs of a step per sample (`Cost.step`) / peak of all devices."""
    peak = peak_flops(kind)
    return None if peak is None else rate * step_flops / (peak * devices)
