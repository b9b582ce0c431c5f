"""Waveform to spectrogram, on both paths, and what is random about it."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.augment import fbank as waves
from mae_jax.config import resolve
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.data.decode import BadImage
from mae_jax.data.fbank import Front, fbank
from mae_jax.data.order import Draws
from mae_jax.methods.base import Leaf
from mae_jax.modalities.spectrogram import Spectrogram
from mae_jax.train.build import build

LEAF = Leaf((24, 16, 1))
PLAIN = Spectrogram(rate=8000, seconds=0.2, mean=-1.0, std=2.0)
RNG = np.random.default_rng(0)


def record(seconds=0.2, rate=8000):
    return {"waveform": RNG.standard_normal(round(seconds * rate)).astype(np.float32), "rate": rate}


def both(modality, rec, train=True, seed=None):
    """(features by the host's path, by the device's), each as the loss reads them, of one record."""
    out = []
    for where in ("host", "device"):
        ctx = None if seed is None else Context(jax.random.key(seed))
        m = dataclasses.replace(modality, where=where)
        made = m.host("spectrogram", LEAF, train, 0)("spectrogram", rec, Draws(0, 3))
        made = {f"spectrogram{k}": v for k, v in made.items()} if isinstance(made, dict) else {"spectrogram": made}
        assert set(made) == set(m.travels("spectrogram", LEAF)) if train else set(made) == {"spectrogram"}
        out.append(
            np.asarray(m.device("spectrogram", LEAF, {k: jnp.asarray(v)[None] for k, v in made.items()}, ctx)[0])
        )
    return out


@pytest.mark.parametrize("padding", ["zero", "minimum"])
@pytest.mark.parametrize("seconds", [0.2, 0.11, 0.02])
def test_host_and_device_make_the_same(padding, seconds):
    modality = dataclasses.replace(PLAIN, padding=padding)
    host, device = both(modality, record(seconds))
    np.testing.assert_allclose(device, host, atol=2e-4)
    sound = Front(8000).frames(round(seconds * 8000)) if padding == "zero" else 18
    assert host.shape == (24, 16, 1)
    expected = 0.25 if padding == "zero" else (host[:sound].min() if sound else 0.25)  # (0 + 1) / 4: zeros, normalised
    np.testing.assert_allclose(host[sound:], expected, atol=1e-6)


def test_it_is_the_filter_bank_of_the_centred_waveform_normalised_by_twice_the_deviation():
    rec = record()
    rec["waveform"] += 0.5
    host, _ = both(PLAIN, rec, train=False)
    x = rec["waveform"] - rec["waveform"].mean()
    np.testing.assert_allclose(host[:18, :, 0], (fbank(x, Front(8000, 16)) + 1) / 4, atol=1e-6)


def test_another_rate_is_resampled_and_long_records_are_cut():
    rec = {"waveform": np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000).astype(np.float32), "rate": 16_000}
    host, _ = both(PLAIN, rec)
    assert np.unique(host[:18].argmax(axis=1)).size == 1  # a steady tone in every frame, none is padding
    crop = dataclasses.replace(PLAIN, crop="random").host("spectrogram", LEAF, True, 0)
    long = record(1.0)
    cuts = {crop("spectrogram", long, Draws(0, i)).tobytes() for i in range(4)}
    assert len(cuts) == 4
    assert crop("spectrogram", long, Draws(0, 1)).tobytes() in cuts  # the same draw, the same cut
    with pytest.raises(BadImage, match="too short"):
        crop("spectrogram", record(0.001), Draws(0, 0))
    with pytest.raises(UserError, match="waveform"):
        crop("spectrogram", {"image": 0}, Draws(0, 0))


def test_shift_and_gain():
    x = jnp.arange(1, 9.0)[None] * jnp.ones((3, 1))
    turned = waves.roll(x, jnp.array([8, 8, 4]), jnp.array([0.0, 0.25, 0.5]))
    assert turned[0].tolist() == x[0].tolist() and turned[1].tolist() == [7, 8, 1, 2, 3, 4, 5, 6]
    assert turned[2].tolist() == [3, 4, 1, 2, 5, 6, 7, 8]  # what is padding stays behind
    many = waves.gain(Context(jax.random.key(0)), "g", jnp.ones((2000, 2)), 10.0)[:, 0]
    assert many.min() > 0.5 and many.max() < 1.5 and abs(many.mean() - 1) < 0.01
    assert abs(many.std() - np.sqrt(1 / (4 * 21))) < 0.01  # the deviation of Beta(10, 10)
    rec, louder = record(), dataclasses.replace(PLAIN, gain=10.0)
    host, _ = both(louder, rec)
    plain, _ = both(PLAIN, rec)
    gap = 4 * (host - plain)[:18]  # a factor is a constant in the logarithm
    assert gap.std() < 1e-3 and abs(gap.mean()) > 1e-2
    published = dataclasses.replace(PLAIN, shift="published")
    np.testing.assert_array_equal(both(published, rec)[0], plain)  # as coded, nothing is shifted
    shifted = both(dataclasses.replace(PLAIN, shift="circular"), rec)[0]
    assert not np.allclose(shifted, plain)


def test_mixtures_have_the_ratio_of_powers_that_was_drawn():
    x = jnp.asarray(RNG.standard_normal((4, 400)) * np.array([[1.0], [2.0], [0.5], [3.0]]), jnp.float32)
    given = {"m": jnp.array([[0.1, 0.0, 0.5, 0.5], [0.9, 0.9, 0.5, 0.5], [0.1, 0.9, 0.0, 1.0], [0.1, 0.0, 1.0, 0.0]])}
    out = waves.mixture(Context(jax.random.key(0), given=given), "m", x, 0.5, (0.0, 20.0), 2)
    assert out[1].tolist() == x[1].tolist()  # its draw lies above the probability
    for i, db in ((0, 10.0), (3, 20.0)):
        added = out[i] - x[i]
        np.testing.assert_allclose(10 * np.log10((x[i] ** 2).mean() / (added**2).mean()), db, atol=0.01)
        np.testing.assert_allclose(np.corrcoef(added, x[i - 1])[0, 1], 1.0, atol=1e-4)  # of the neighbour
    both_added = out[2] - x[2]
    np.testing.assert_allclose(np.corrcoef(both_added, x[1] / x[1].std() + x[0] / x[0].std() / 10)[0, 1], 1, atol=2e-3)


def test_bands_are_masked_by_torchaudios_law():
    x = jnp.ones((4, 24, 16))
    u = jnp.array([[0.5, 0.5, 0.1], [0.99, 0.99, 0.1], [0.5, 0.5, 0.9], [0.0, 0.3, 0.0]])
    out = waves.mask_lines(x, u, 1, 9, 0.5)
    rows = [np.flatnonzero(~np.asarray(sample).any(axis=1)).tolist() for sample in out]
    assert rows == [[9, 10, 11, 12], list(range(14, 22)), [], []]  # floor(0.5 (24 - 4.5)) = 9, floor(4.5) = 4 lines
    modality = dataclasses.replace(PLAIN, frequency_mask=(8, 1.0), time_mask=(8, 1.0))
    plain, _ = both(PLAIN, record(), seed=1)
    masked, _ = both(modality, record(), seed=1)
    still, _ = both(modality, record())
    assert (masked == 0.25).any() and not (still == 0.25)[:18].any() and not (plain == 0.25)[:18].any()


def test_training_runs_on_both_paths_and_mixtures_need_the_device():
    def config(**augment):
        return resolve({
            "method": dict(name="birdmae", spectrogram_size=(24, 16), patch=4, dim=8, depth=1, heads=2, decoder_dim=8,
                           decoder_depth=1, decoder_heads=2),
            "data": {"source": "chirps"}, "train": {"batch": 16, "steps": 2}, "eval": {"batch": 16},
            "augment": dict(spectrogram_rate=8000, spectrogram_seconds=0.2, **augment),
        })  # fmt: skip

    run = build(config(spectrogram_where="device", spectrogram_mix=0.5, spectrogram_gain=10.0), jax.devices()[:1])
    assert set(run.leaves) == {"spectrogram.waveform", "spectrogram.samples"}
    for fields, message in (
        (dict(spectrogram_mix=0.5), "set augment.spectrogram_where=device"),
        (dict(spectrogram_rate=30), "above twice the lowest frequency"),
        (dict(spectrogram_seconds=0.01), "at least one frame"),
        (dict(spectrogram_std=0.0), "a positive number"),
        (dict(spectrogram_time_mask=(3, 2.0)), "a number of lines"),
        (dict(spectrogram_gain=-1.0), "at least 0"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            build(resolve(config().to_dict() | {"augment": config().to_dict()["augment"] | fields}), jax.devices()[:1])
