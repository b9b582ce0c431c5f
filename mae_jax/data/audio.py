"""Audio files -> waveforms: decoded by libsndfile (the extra `audio`), made mono, resampled."""

import io
import math
from types import ModuleType

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.decode import BadImage

EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au"})
MAX_SAMPLES = 1 << 28  # of one file, over all channels: 1 GiB as float32, 3 h of 24 kHz
SHORTEST = 0.01  # seconds of sound below which a file counts as broken


def soundfile() -> ModuleType:
    """The library that decodes.

    Raises:
      UserError: it is not installed.
    """
    try:
        import soundfile as library
    except (ImportError, OSError) as error:
        raise UserError(
            f"reading audio files needs soundfile, which cannot be loaded ({error}): pip install 'mae_jax[audio]'."
        ) from error
    return library


def read(encoded: bytes) -> tuple[np.ndarray, int]:
    """An encoded file -> (float32 [samples] in [-1, 1], the mean of its channels; its rate in Hz).

    Raises:
      BadImage: it cannot be decoded, is cut off, holds no sound or numbers that are not finite.
    """
    library = soundfile()
    try:
        with library.SoundFile(io.BytesIO(encoded)) as file:
            rate, expected = int(file.samplerate), int(file.frames)
            if not 0 <= expected * file.channels <= MAX_SAMPLES:
                raise BadImage(f"too long: its header claims {expected} samples of {file.channels} channels")
            sound = file.read(dtype="float32", always_2d=True)
    except BadImage:
        raise
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise BadImage(f"cannot be decoded as audio: {error}") from error
    if len(sound) < expected:
        raise BadImage(f"cut off: {len(sound)} of {expected} samples")
    return checked(sound.mean(axis=1), rate), rate


def checked(waveform: np.ndarray, rate: int) -> np.ndarray:
    """The waveform, if there is something to hear in it. Raises BadImage."""
    if len(waveform) < max(1, SHORTEST * rate):
        raise BadImage(f"too short: {len(waveform)} samples at {rate} Hz; at least {SHORTEST} s expected")
    if not np.isfinite(waveform).all():
        raise BadImage("holds samples that are not finite")
    return waveform


def resample(waveform: np.ndarray, rate: int, to: int) -> np.ndarray:
    """[n] at `rate` -> [ceil(n to / rate)] at `to`, band-limited (SciPy's polyphase filter)."""
    if rate == to:
        return waveform
    from scipy.signal import resample_poly  # slow to import

    common = math.gcd(rate, to)
    return resample_poly(waveform, to // common, rate // common).astype(np.float32)
