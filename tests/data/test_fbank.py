"""Kaldi's filter banks, on the host and on the device, against torchaudio's."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.augment import fbank as waves
from mae_jax.data.fbank import EPS, PREEMPHASIS, Front, fbank, fitted

sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
import birdmae_fbank

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "birdmae_fbank.npz")
CASES = birdmae_fbank.CASES


def on_device(x: np.ndarray, front: Front) -> np.ndarray:
    run = jax.jit(lambda x: waves.fbank(x, front.hann, front.filters, front.step, PREEMPHASIS, EPS))
    return np.asarray(run(jnp.asarray(x)[None]))[0]


@pytest.mark.parametrize("name", CASES)
def test_both_are_the_stored_reference(name):
    rate, mels, samples = CASES[name]
    front, x = Front(rate, mels), birdmae_fbank.sound(rate, samples)
    expected = GOLDEN[name]
    assert front.frames(samples) == len(expected)
    assert (expected.min() < -15.9) == (name != "birdset")  # a silent frame: the log of float32's eps
    # In float32 the least energies are rounding errors of the largest: there logarithms differ most.
    for found, most in ((fbank(x, front), 1e-3), (on_device(x, front), 5e-3)):
        assert found.shape == expected.shape and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=most)
        assert np.median(np.abs(found - expected)) < 1e-5


@pytest.mark.parametrize("rate, mels, samples", [(44_100, 64, 9000), (16_000, 128, 4001), (22_050, 80, 2000)])
def test_other_rates_are_torchaudios(rate, mels, samples):
    pytest.importorskip("torchaudio.compliance.kaldi")
    x = birdmae_fbank.sound(rate, samples)
    expected = birdmae_fbank.reference(x, rate, mels)
    np.testing.assert_allclose(fbank(x, Front(rate, mels)), expected, atol=1e-3)


def test_frames_of_published_lengths():
    """10 s at 16 kHz, 5 s at 32 kHz, 1 s at 16 kHz (sheet: 998, 498 and 98 frames before padding)."""
    assert [Front(r).frames(n) for r, n in ((16_000, 160_000), (32_000, 160_000), (16_000, 16_000))] == [998, 498, 98]
    assert Front(16_000).frames(399) == 0 and Front(16_000).frames(400) == 1
    assert Front(16_000).fft == 512 and Front(32_000).fft == 1024
    assert fbank(np.zeros(100, np.float32), Front(16_000)).shape == (0, 128)


def test_padding():
    x = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    assert fitted(x, 2, 9.0).tolist() == [[0, 1], [2, 3]] and fitted(x, 4, 9.0)[3].tolist() == [9, 9]
    batch, valid = jnp.asarray(np.stack([x, x + 1])), jnp.array([3, 2])
    lowest = waves.fitted(batch, 4, valid, lowest=True)
    assert lowest[0, 3].tolist() == [0, 0] and lowest[1, 2:].tolist() == [[1, 1], [1, 1]]
    assert not waves.fitted(batch, 4, valid, lowest=False)[1, 2:].any()
    assert waves.whole_frames(jnp.array([399, 400, 559, 560]), 400, 160).tolist() == [0, 1, 1, 2]
