"""Writes tests/golden/birdmae_fbank.npz: filter banks of made-up sounds by torchaudio's Kaldi-compatible code.

python tests/reference/birdmae_fbank.py      (torchaudio 2.11.0 with torch 2.14.1, CPU)
"""

from pathlib import Path

import numpy as np

CASES = {"audioset": (16_000, 128, 4000), "birdset": (32_000, 128, 3300), "chirps": (8_000, 32, 2640)}


def sound(rate: int, samples: int) -> np.ndarray:
    """A rising tone over noise that grows, with an offset, and silence at the end; float32 [samples]."""
    t = np.arange(samples) / rate
    noise = np.random.default_rng(rate).standard_normal(samples) * np.linspace(0, 0.3, samples)
    x = 0.1 + 0.4 * np.sin(2 * np.pi * (300 * t + 2000 * t * t)) + noise
    x[-samples // 5 :] = 0.0
    return x.astype(np.float32)


def reference(waveform: np.ndarray, rate: int, mels: int) -> np.ndarray:
    """Log-mel energies [frames, mels] float32, as Audio-MAE and Bird-MAE call it."""
    import torch
    from torchaudio.compliance.kaldi import fbank

    return fbank(
        torch.from_numpy(waveform)[None], htk_compat=True, sample_frequency=rate, use_energy=False,
        window_type="hanning", num_mel_bins=mels, dither=0.0, frame_shift=10,
    ).numpy()  # fmt: skip


if __name__ == "__main__":
    arrays = {}
    for name, (rate, mels, samples) in CASES.items():
        arrays[name] = reference(sound(rate, samples), rate, mels)
    np.savez_compressed(Path(__file__).parent.parent / "golden" / "birdmae_fbank.npz", **arrays)
