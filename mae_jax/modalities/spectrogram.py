"""Log-mel spectrograms [frames, mels, 1] of the records' waveforms, made by the host or on the device."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Array

from mae_jax.augment import fbank as waves
from mae_jax.core.keys import Context
from mae_jax.data import audio
from mae_jax.data.fbank import EPS, PREEMPHASIS, Front, samples_of
from mae_jax.data.spectrogram import Clip, Padding
from mae_jax.data.views import HostLeaf
from mae_jax.methods.base import Leaf
from mae_jax.modalities.base import Modality
from mae_jax.targets.colours import upright


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spectrogram(Modality):
    """Kaldi's filter banks, normalised as (x - mean) / (2 std). The defaults are Audio-MAE's of AudioSet.

    Attributes:
      where: "host", spectrograms travel; "device", in training waveforms do, and the rest happens inside the step
        (evaluation's are the host's).
      rate: Hz, to which all records are resampled.
      seconds: of a clip; longer ones are cut, see `crop`.
      low: lowest frequency of the filters, Hz. window, hop: of frames, ms.
      mean, std: of the log-mel energies over the data.
      padding: "zero" (Audio-MAE) or "minimum" (Bird-MAE), behind clips that are too short (data/spectrogram.py).
      crop: where training cuts a longer record: "random" or "start"; evaluation cuts at the start.
      shift: "circular", the waveform turned round at random, as Audio-MAE means it; "published", as its code has it: by
        nothing; "none".
      gain: alpha of the factor Beta(alpha, alpha) + 0.5 of the waveform (Audio-MAE: 10); 0: none.
      mix: probability that other clips of the batch are added to a waveform; needs where="device".
      mix_snr: range of the ratio of powers, dB. mix_clips: how many at most.
      frequency_mask, time_mask: (lines, probability) of a band of at most so many lines that becomes 0 before the
        normalisation (SpecAug).
    """

    kind: ClassVar[str] = "spectrogram"
    heeds: ClassVar[tuple[str, ...]] = ("mixup",)
    kept: ClassVar[tuple[str, ...]] = (
        "where", "rate", "seconds", "low", "window", "hop", "mean", "std", "padding", "crop",
    )  # fmt: skip

    where: Literal["host", "device"] = "host"
    rate: int = 16_000
    seconds: float = 10.0
    low: float = 20.0
    window: float = 25.0
    hop: float = 10.0
    mean: float = -4.2677393
    std: float = 4.5689974
    padding: Padding = "zero"
    crop: Literal["random", "start"] = "start"
    shift: Literal["none", "circular", "published"] = "none"
    gain: float = 0.0
    mix: float = 0.0
    mix_snr: tuple[float, float] = (5.0, 25.0)
    mix_clips: int = 3
    frequency_mask: tuple[int, float] = (0, 0.0)
    time_mask: tuple[int, float] = (0, 0.0)

    def front(self, leaf: Leaf) -> Front:
        """The filter bank of a leaf."""
        return Front(self.rate, leaf.shape[1], self.low, self.window, self.hop)

    @property
    def together(self) -> bool:
        return self.where == "device" and self.mix > 0

    @property
    def samples(self) -> int:
        """Of a clip."""
        return samples_of(self.seconds, self.rate)

    def check(self, name: str, leaf: Leaf) -> None:
        self.probability("mix")
        if len(leaf.shape) != 3 or leaf.shape[2] != 1:
            raise ValueError(f"leaf '{name}' of shape {leaf.shape} is no spectrogram [frames, mels, 1]")
        if self.rate < 1 or self.low < 0 or 2 * self.low >= self.rate:
            raise self.wrong("rate", f"above twice the lowest frequency, spectrogram_low={self.low}, expected")
        if self.window <= 0 or self.hop <= 0 or min(self.front(leaf).length, self.front(leaf).step) < 2:
            raise self.wrong("window", f"frames and hops (spectrogram_hop={self.hop}) of at least 2 samples expected")
        if self.front(leaf).frames(self.samples) < 1:
            raise self.wrong("seconds", f"at least one frame of {self.window} ms expected")
        if self.std <= 0:
            raise self.wrong("std", "a positive number expected")
        if self.gain < 0:
            raise self.wrong("gain", "at least 0 expected, which switches it off")
        if self.mix and (self.where == "host" or self.mix_clips < 1 or self.mix_snr[0] > self.mix_snr[1]):
            raise self.wrong(
                "mix", "mixes waveforms of a batch on the device: set augment.spectrogram_where=device, spectrogram_"
                "mix_clips of at least 1 and spectrogram_mix_snr as (lowest, highest)",
            )  # fmt: skip
        for key, (lines, p) in (("frequency_mask", self.frequency_mask), ("time_mask", self.time_mask)):
            if lines < 0 or not 0 <= p <= 1:
                raise self.wrong(key, "(a number of lines of at least 0, a probability) expected")

    def host(self, name: str, leaf: Leaf, train: bool, stream: int, view: int = 0) -> HostLeaf:
        random: dict[str, Any] = {}
        if train:
            random = dict(crop=self.crop, shift=self.shift == "circular", gain=self.gain, raw=self.where == "device")
        return Clip(self.front(leaf), self.samples, leaf.shape[0], self.padding, stream=stream, **random)

    def travels(self, name: str, leaf: Leaf) -> Mapping[str, Leaf]:
        if self.where == "host":
            return {name: leaf}
        return {f"{name}.waveform": Leaf((self.samples,)), f"{name}.samples": Leaf((1,), "int32")}

    def arrived(self, name: str, leaf: Leaf, batch: Mapping[str, Array]) -> bool:
        return name in batch or super().arrived(name, leaf, batch)

    def device(self, name: str, leaf: Leaf, batch: Mapping[str, Array], ctx: Context | None) -> Array:
        x = batch[name][..., 0] if name in batch else self._features(name, leaf, batch, ctx)
        for axis, (lines, p) in ((2, self.frequency_mask), (1, self.time_mask)):
            if ctx is not None and lines and p:
                u = ctx.uniform(f"augment/mask_{axis}/{name}", (len(x), 3))
                x = waves.mask_lines(x, u, axis, lines, p)
        return ((x - self.mean) / (2 * self.std))[..., None]

    def picture(self, leaf: Leaf, x: Array) -> Array:
        """Time to the right, low frequencies below, each from its quietest to its loudest."""
        return upright(x, x)

    def axes(self, leaf: Leaf) -> int:
        return 1  # a waveform

    def given(self, name: str, leaf: Leaf, value: Any) -> dict[str, Any]:
        """A sound file's path or bytes, or a waveform [samples] at augment.spectrogram_rate."""
        if isinstance(value, str | bytes | os.PathLike):
            sound, rate = audio.read(value if isinstance(value, bytes) else Path(value).expanduser().read_bytes())
            return {"waveform": sound, "rate": rate}
        return {"waveform": audio.checked(np.asarray(value, np.float32), self.rate), "rate": self.rate}

    def _features(self, name: str, leaf: Leaf, batch: Mapping[str, Array], ctx: Context | None) -> Array:
        wave, samples, front = batch[f"{name}.waveform"], batch[f"{name}.samples"][:, 0], self.front(leaf)
        if ctx is not None:
            if self.shift == "circular":
                wave = waves.roll(wave, samples, ctx.uniform(f"augment/shift/{name}", (len(wave),)))
            if self.gain:
                wave = waves.gain(ctx, f"augment/gain/{name}", wave, self.gain)
            if self.mix:
                wave = waves.mixture(ctx, f"augment/mix/{name}", wave, self.mix, self.mix_snr, self.mix_clips)
        features = waves.fbank(wave, front.hann, front.filters, front.step, PREEMPHASIS, EPS)
        valid = waves.whole_frames(samples, front.length, front.step)
        return waves.fitted(features, leaf.shape[0], valid, self.padding == "minimum")
