"""RandAugment (Cubuk et al. 2019) as timm published it for fine-tuning, by its strings: "rand-m9-mstd0.5-inc1".

Facts from timm/data/auto_augment.py (Wightman; commit aa4b5850): the 15 operations, what a level means to each, the
"increasing" variants, noise on the magnitude, and each layer applied with probability 0.5. The operations are Pillow's.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mae_jax.core.errors import UserError

TOP = 10.0  # the level at which an operation is at full strength
RANDOM = ("bilinear", "bicubic")
_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_GRAMMAR = (
    "sections after 'rand', separated by '-': m9 (magnitude), n2 (operations per image), p0.5 (probability of each), "
    "mstd0.5 (standard deviation of the magnitude; over 100: uniform from 0), mmax10 (largest magnitude), inc1 "
    "(strength grows with the magnitude)"
)

KEYS = {"m": "magnitude", "n": "layers", "p": "probability", "mstd": "noise", "mmax": "largest", "inc": "increasing"}

Picture = Image.Image
Operation = Callable[[Picture, float, Image.Resampling, tuple[int, int, int]], Picture]


@dataclass(frozen=True)
class RandAugment:
    """What to do to an image, drawn anew for each.

    Attributes:
        magnitude: level of every operation; with its noise it is clipped to 0..`largest`.
        layers: operations per image, drawn with replacement.
        probability: with which each drawn operation is applied.
        noise: standard deviation of the level; inf: the level is uniform in 0..magnitude.
        largest: upper bound of the level.
        increasing: strength grows with the level in every operation. Else posterize and solarize weaken as it grows,
            and the enhancements go from 0.1 to 1.9 times instead of away from 1.
        fill: colour 0..255 of what moves into view.
        interpolation: of shear, translation and rotation: "bilinear", "bicubic" or "random" (drawn for each).
    """

    magnitude: float = TOP
    layers: int = 2
    probability: float = 0.5
    noise: float = 0.0
    largest: float = TOP
    increasing: bool = False
    fill: tuple[int, int, int] = (128, 128, 128)
    interpolation: str = "random"

    @staticmethod
    @functools.cache
    def of(policy: str, fill: tuple[int, int, int], interpolation: str) -> "RandAugment":
        """The policy that one of timm's strings says. Raises UserError."""
        return RandAugment(**_parse(policy), fill=fill, interpolation=interpolation)

    def __post_init__(self):
        if self.interpolation not in (*RANDOM, "random"):
            raise UserError(f"RandAugment cannot turn an image by '{self.interpolation}': augment.interpolation must "
                            "be 'bicubic' or 'bilinear' with it.")  # fmt: skip

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 [h, w, 3] -> the same shape. Raises UserError for anything else."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"RandAugment works on uint8 RGB images; the data give {image.dtype} of shape "
                            f"{image.shape}. Set augment.randaugment=None.")  # fmt: skip
        names = INCREASING if self.increasing else DECREASING
        picture = Image.fromarray(np.ascontiguousarray(image))
        for name in (names[i] for i in rng.integers(len(names), size=self.layers)):
            if rng.random() <= self.probability:
                picture = apply(name, picture, self._level(rng), rng, self.fill, self.interpolation)
        return np.array(picture)

    def _level(self, rng: np.random.Generator) -> float:
        if self.noise == float("inf"):
            level = rng.uniform(0, self.magnitude)
        else:
            level = rng.normal(self.magnitude, self.noise) if self.noise else self.magnitude
        return max(0.0, min(level, self.largest))


def mean_colour(mean: tuple[float, ...]) -> tuple[int, ...]:
    """The mean of normalisation as a colour 0..255: the `fill` of recipes."""
    return tuple(min(255, round(255 * m)) for m in mean)


def apply(
    name: str,
    picture: Picture,
    level: float,
    rng: np.random.Generator,
    fill: tuple[int, int, int],
    interpolation: str,
) -> Picture:
    """One operation at `level`. Draws: the sign where it has one, then the interpolation where that is "random"."""
    operation, to_argument, signed = OPERATIONS[name]
    argument = to_argument(level)
    if signed and rng.random() > 0.5:
        argument = -argument
    if name.removesuffix("Increasing") in _ENHANCERS and signed:  # about 1, where the picture stays as it is
        argument = max(0.1, 1 + argument)
    if name in GEOMETRY and interpolation == "random":
        interpolation = RANDOM[int(rng.integers(len(RANDOM)))]
    return operation(picture, argument, _RESAMPLE.get(interpolation, Image.Resampling.BILINEAR), fill)


def _affine(matrix: Callable[[Picture, float], tuple[float, ...]]) -> Operation:
    """`matrix` (picture, argument) -> (a, b, c, d, e, f): output (x, y) shows input (ax + by + c, dx + ey + f)."""
    return lambda picture, v, resample, fill: picture.transform(
        picture.size, Image.Transform.AFFINE, matrix(picture, v), resample=resample, fillcolor=fill
    )


def _enhance(kind: Callable[[Picture], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, v, *_: kind(picture).enhance(v)


def _solarize_add(picture: Picture, add: float, *_) -> Picture:
    """Values under 128 are raised by `add`."""
    table = [min(255, value + int(add)) if value < 128 else value for value in range(256)]
    return picture.point(table * 3)


def _posterize(picture: Picture, bits: float, *_) -> Picture:
    """`bits` kept of each value; from 0 down all turns black, as timm's runs had it (newer Pillows refuse that)."""
    mask = 256 - 2 ** (8 - max(0, int(bits)))
    return picture.point([value & mask for value in range(256)] * 3)


def _nothing(level: float) -> float:
    return 0.0


def _share(of: float) -> Callable[[float], float]:
    return lambda level: level / TOP * of


def _whole(of: int) -> Callable[[float], float]:
    return lambda level: float(int(level / TOP * of))


def _rest(of: int) -> Callable[[float], float]:
    return lambda level: float(of - int(level / TOP * of))


_ENHANCERS: dict[str, Operation] = {
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
}
_solarize: Operation = lambda picture, v, *_: ImageOps.solarize(picture, int(v))

# name: (operation, level -> argument, whether the argument's sign is drawn)
OPERATIONS: dict[str, tuple[Operation, Callable[[float], float], bool]] = {
    "AutoContrast": (lambda picture, *_: ImageOps.autocontrast(picture), _nothing, False),
    "Equalize": (lambda picture, *_: ImageOps.equalize(picture), _nothing, False),
    "Invert": (lambda picture, *_: ImageOps.invert(picture), _nothing, False),
    "Rotate": (lambda picture, v, resample, fill: picture.rotate(v, resample=resample, fillcolor=fill),
               _share(30), True),
    "Posterize": (_posterize, _whole(4), False),  # bits kept
    "PosterizeIncreasing": (_posterize, _rest(4), False),
    "Solarize": (_solarize, _whole(256), False),  # what is inverted from
    "SolarizeIncreasing": (_solarize, _rest(256), False),
    "SolarizeAdd": (_solarize_add, _whole(110), False),
    **{name: (run, lambda level: level / TOP * 1.8 + 0.1, False) for name, run in _ENHANCERS.items()},
    **{name + "Increasing": (run, _share(0.9), True) for name, run in _ENHANCERS.items()},
    "ShearX": (_affine(lambda _, v: (1, v, 0, 0, 1, 0)), _share(0.3), True),
    "ShearY": (_affine(lambda _, v: (1, 0, 0, v, 1, 0)), _share(0.3), True),
    "TranslateXRel": (_affine(lambda p, v: (1, 0, v * p.width, 0, 1, 0)), _share(0.45), True),
    "TranslateYRel": (_affine(lambda p, v: (1, 0, 0, 0, 1, v * p.height)), _share(0.45), True),
}  # fmt: skip
GEOMETRY = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
_COLOURS = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
_ALWAYS = ("AutoContrast", "Equalize", "Invert", "SolarizeAdd")
DECREASING = _ALWAYS + _COLOURS + GEOMETRY
INCREASING = _ALWAYS + tuple(name + "Increasing" for name in _COLOURS) + GEOMETRY


def _parse(policy: str) -> dict:
    """The fields of RandAugment that timm's string sets."""
    kind, *sections = policy.split("-")
    if kind != "rand":
        raise _unknown(policy, f"it begins with '{kind}', and RandAugment alone is here")
    found: dict = {}
    for section in sections:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?|inf)", section)
        if not match or match[1] not in KEYS:
            raise _unknown(policy, f"'{section}' is not among the sections that are supported")
        if KEYS[match[1]] in found:
            raise _unknown(policy, f"'{match[1]}' is said twice")
        found[KEYS[match[1]]] = float(match[2])
    if "increasing" in found and found["increasing"] != 1:  # timm takes inc0 for true
        raise _unknown(policy, "write inc1, or leave it out")
    if "layers" in found and (found["layers"] < 1 or found["layers"] % 1):
        raise _unknown(policy, "n is a whole number from 1")
    if not 0 <= found.get("probability", 0.5) <= 1:
        raise _unknown(policy, "p lies in 0..1")
    if found.get("noise", 0) > 100:
        found["noise"] = float("inf")
    if "layers" in found:
        found["layers"] = int(found["layers"])
    if "increasing" in found:
        found["increasing"] = True
    return found


def _unknown(policy: str, reason: str) -> UserError:
    return UserError(f"augment.randaugment='{policy}' is not understood: {reason}. It has {_GRAMMAR}.")
