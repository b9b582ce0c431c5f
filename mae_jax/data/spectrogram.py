"""A record's waveform on the host: brought to one rate and length, then as log-mel frames, or as it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.audio import checked, resample
from mae_jax.data.fbank import Front, fbank, fitted
from mae_jax.data.views import Draw, missing

Padding = Literal["zero", "minimum"]


@dataclass(frozen=True)
class Clip:
    """The record's "waveform" [samples] at its "rate" -> [frames, mels, 1] float32 raw log-mel energies.

    Attributes:
        front: of the filter bank; its rate is the one that all records are brought to.
        samples: of a clip; longer ones are cut.
        frames: of the result.
        padding: "zero": a shorter record has fewer frames, behind which zeros follow (Audio-MAE); "minimum": silence is
            put behind the waveform, and behind its frames the clip's own least value (Bird-MAE, where it is the
            batch's).
        crop: where a longer record is cut: at random or at its start.
        shift: turn the waveform round by a random share of its length.
        gain: alpha of the factor Beta(alpha, alpha) + 0.5; 0: none.
        raw: give {".waveform" [samples], ".samples" [1]: how many of these are sound} instead: the device does the
            rest, `shift` and `gain` too.
        stream: which of the pipeline's random streams it draws from.
    """

    front: Front
    samples: int
    frames: int
    padding: Padding = "zero"
    crop: Literal["random", "start"] = "start"
    shift: bool = False
    gain: float = 0.0
    raw: bool = False
    stream: int = 0

    def __call__(self, name: str, record: Mapping[str, Any], draw: Draw) -> np.ndarray | dict[str, np.ndarray]:
        """Raises BadImage."""
        if "waveform" not in record or "rate" not in record:
            raise missing("waveform", record)
        x, rate = np.asarray(record["waveform"], np.float32), int(record["rate"])
        if x.ndim != 1:
            raise UserError(f"the data give a 'waveform' of shape {x.shape}: [samples] of one channel expected.")
        x = resample(checked(x, rate), rate, self.front.rate)
        rng = draw(self.stream) if self.crop == "random" or self.shift or self.gain else None
        if len(x) > self.samples:
            start = rng.integers(len(x) - self.samples + 1) if rng is not None and self.crop == "random" else 0
            x = x[start : start + self.samples]
        x = x - x.mean() if self.padding == "zero" else x
        real = len(x) if self.padding == "zero" else self.samples
        if self.raw or self.padding == "minimum":
            x = np.pad(x, (0, self.samples - len(x)))
        x = x if self.padding == "zero" else x - x.mean()
        if self.raw:
            return {".waveform": x.astype(np.float32), ".samples": np.array([real], np.int32)}
        if self.shift and rng is not None:
            x = np.roll(x, int(rng.random() * len(x)))
        if self.gain and rng is not None:
            x = x * np.float32(rng.beta(self.gain, self.gain) + 0.5)
        features = fbank(x, self.front)
        fill = float(features.min()) if self.padding == "minimum" and len(features) else 0.0
        return fitted(features, self.frames, fill)[:, :, None]
