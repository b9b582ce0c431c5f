"""The optional libraries behind decoding and resizing, and which of them this machine has."""

import functools
import importlib
import importlib.metadata
from types import ModuleType

_DISTRIBUTIONS = {
    "simplejpeg": "simplejpeg",
    "cykooz_resizer": "cykooz.resizer",
    "tifffile": "tifffile",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "av": "av",
}


@functools.cache
def library(module: str) -> ModuleType | None:
    """The module, imported once per process, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def codec() -> dict[str, str]:
    """What decodes and resizes on this machine, by task, with versions.

    Pillow stands in for simplejpeg and cykooz.resizer where these are missing. Its JPEG pixels are those of `exact`
    decoding, given the same libjpeg-turbo; its resized pixels agree to about 55 dB. So a run is repeated bit for bit
    only with the same libraries.
    """
    return {
        "jpeg": _first("simplejpeg", "PIL"),
        "resize": _first("cykooz_resizer", "PIL"),
        "deep or multi-band tiff": _first("tifffile"),
        "16-bit colour png": _first("cv2"),
        "other formats": _first("PIL"),
        "video": _first("av"),
    }


def _first(*modules: str) -> str:
    for module in modules:
        found = library(module)
        if found is not None:
            better = "" if module == modules[0] else f" (slower; faster: pip install {_DISTRIBUTIONS[modules[0]]})"
            return f"{_DISTRIBUTIONS[module]} {_version(module, found)}{better}"
    return f"none (pip install {_DISTRIBUTIONS[modules[0]]})"


def _version(module: str, found: ModuleType) -> str:
    try:
        return importlib.metadata.version(_DISTRIBUTIONS[module])
    except importlib.metadata.PackageNotFoundError:  # opencv comes as several distributions
        return str(getattr(found, "__version__", "of unknown version"))
