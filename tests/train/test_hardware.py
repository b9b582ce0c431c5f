"""MFU and the table of peaks."""

import pytest

from mae_jax.train.hardware import mfu, peak_flops


@pytest.mark.parametrize(
    "kind, tflops",
    [
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("cpu", None),
    ],
)
def test_peaks(kind, tflops):
    peak = peak_flops(kind)
    assert peak == (tflops and tflops * 1e12)


def test_mfu_is_3_forwards_over_the_peak_of_all_devices():
    """guide/perf.md: an H200 at 100 % does 16859 images/s of ViT-B (58.7 GFLOP a step); the same on two is half."""
    assert mfu(16859, 58.66e9, "NVIDIA H200", 1) == pytest.approx(1.0, rel=1e-3)
    assert mfu(16859, 58.66e9, "NVIDIA H200", 2) == pytest.approx(0.5, rel=1e-3)
    assert mfu(100, 3e9, "cpu", 1) is None
