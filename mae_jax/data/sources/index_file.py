"""Indexes that are made once and kept in a file: beside the data, or else in the user's cache directory."""

import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mae_jax.core.npy import Npz


def home() -> Path:
    """Where the indexes of read-only data lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mae_jax"


def load(place: Path) -> dict[str, np.ndarray]:
    """The arrays of an index; {} from a file that is not there or not whole: it is made anew."""
    try:
        return dict(Npz(place))
    except (OSError, ValueError, zlib.error):
        return {}


def save(places: Sequence[Path], arrays: Mapping[str, np.ndarray]) -> list[tuple[Path, OSError]]:
    """Write the arrays to the first place that can be written, whole or not at all.

    Returns: [] where that was done, else what was wrong with each place.
    """
    errors = []
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=place.parent, prefix=place.stem, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    np.savez(file, allow_pickle=False, **arrays)
                os.chmod(name, 0o644)  # mkstemp makes it readable by its owner alone
                os.replace(name, place)
            finally:
                Path(name).unlink(missing_ok=True)
            return []
        except OSError as error:
            errors.append((place, error))
    return errors
