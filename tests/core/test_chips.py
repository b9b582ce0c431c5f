"""MFU and the table of peaks."""

import pytest

from mae_jax.core.chips import chip, mfu, peak_flops


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


@pytest.mark.parametrize(
    "kind, topology",
    [("TPU v3", "v3:2x2"), ("TPU v4", "v4:2x2x1"), ("TPU v5 lite", "v5e:16x16"), ("TPU v5", "v5p:2x2x2"),
     ("TPU v6 lite", "v6e:8x8")],
)  # fmt: skip
def test_device_kinds_and_topologies_find_the_same_chip(kind, topology):
    """The kinds that libtpu 0.0.51 gives the devices of these topologies."""
    assert chip(kind) is chip(topology) is not None


def test_the_longest_name_decides():
    assert chip("NVIDIA H100 80GB HBM3").name == "H100"
    assert chip("NVIDIA H100 PCIe").name == "H100-PCIe"
    assert chip("NVIDIA A100-SXM4-40GB").hbm_bytes == 40e9
    assert chip("cpu") is None
