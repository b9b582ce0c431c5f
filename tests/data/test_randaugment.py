"""RandAugment against timm's published tables, restated in numpy, and against timm itself where it is installed."""

import numpy as np
import pytest
from PIL import Image

from mae_jax.core.errors import UserError
from mae_jax.data import randaugment
from mae_jax.data.randaugment import DECREASING, INCREASING, OPERATIONS, RandAugment, apply

FILL = (124, 116, 104)
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
RECIPE = "rand-m9-mstd0.5-inc1"


class Sign(np.random.Generator):
    """A generator whose every draw is one number: over 0.5 the argument is negated."""

    def __init__(self, value):
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self):
        return self.value


def run(name, level, sign=0.0, interpolation="bilinear"):
    return np.asarray(apply(name, Image.fromarray(IMAGE), level, Sign(sign), FILL, interpolation))


def test_the_fifteen_operations_and_their_arguments_at_level_nine():
    """9/10 of 30 degrees, 0.3, 0.45, 0.9; int(0.9 * 4) = 3, int(0.9 * 256) = 230, int(0.9 * 110) = 99."""
    arguments = {name: OPERATIONS[name][1](9.0) for name in INCREASING}
    assert arguments == pytest.approx({
        "AutoContrast": 0, "Equalize": 0, "Invert": 0, "Rotate": 27, "PosterizeIncreasing": 1,
        "SolarizeIncreasing": 26, "SolarizeAdd": 99, "ColorIncreasing": 0.81, "ContrastIncreasing": 0.81,
        "BrightnessIncreasing": 0.81, "SharpnessIncreasing": 0.81, "ShearX": 0.27, "ShearY": 0.27,
        "TranslateXRel": 0.405, "TranslateYRel": 0.405,
    })  # fmt: skip
    assert {n: OPERATIONS[n][1](9.0) for n in ("Posterize", "Solarize", "Color")} == pytest.approx(
        {"Posterize": 3, "Solarize": 230, "Color": 1.72}
    )
    assert len(DECREASING) == len(INCREASING) == 15


def test_operations_on_values():
    flat = IMAGE.astype(int)
    np.testing.assert_array_equal(run("Invert", 9), 255 - flat)
    np.testing.assert_array_equal(run("SolarizeIncreasing", 9), np.where(flat < 26, flat, 255 - flat))
    np.testing.assert_array_equal(run("SolarizeAdd", 9), np.where(flat < 128, np.minimum(flat + 99, 255), flat))
    np.testing.assert_array_equal(run("PosterizeIncreasing", 9), flat & 0b10000000)
    np.testing.assert_array_equal(run("PosterizeIncreasing", 10), 0 * flat)  # no bit left, as published
    np.testing.assert_array_equal(run("Posterize", 5), flat & 0b11000000)
    for sign, factor in [(0.0, 1.81), (1.0, 0.19)]:
        assert abs(run("BrightnessIncreasing", 9, sign) - (flat * factor).clip(0, 255)).max() <= 1
    luma = np.round(flat @ [0.299, 0.587, 0.114]).mean().round()
    assert abs(run("ContrastIncreasing", 10, 1.0) - (luma + 0.1 * (flat - luma))).max() <= 1.5
    np.testing.assert_array_equal(run("ColorIncreasing", 0), flat)


def test_geometry_moves_the_way_timm_moves_and_fills_with_the_colour():
    """Output (x, y) shows input (x + 0.4 * 30, y) at level 10 * 0.4 / 0.45."""
    moved = run("TranslateXRel", 10 * 0.4 / 0.45)
    np.testing.assert_array_equal(moved[:, :18], IMAGE[:, 12:])
    assert (moved[:, 18:] == FILL).all()
    back = run("TranslateYRel", 10 * 0.4 / 0.45, sign=1.0)
    np.testing.assert_array_equal(back[8:], IMAGE[:12])
    assert (back[:8] == FILL).all()
    sheared = run("ShearX", 10)  # 0.3 * (y + 0.5) to the left
    theirs = Image.fromarray(IMAGE).transform((30, 20), Image.Transform.AFFINE, (1, 0.3, 0, 0, 1, 0),
                                              resample=Image.Resampling.BILINEAR, fillcolor=FILL)  # fmt: skip
    np.testing.assert_array_equal(sheared, np.asarray(theirs))
    smooth = run("Rotate", 10, interpolation="bicubic")
    assert (smooth != run("Rotate", 10)).any() and (smooth[0, 0] == FILL).all()


def test_half_of_the_layers_are_applied_and_each_operation_as_often(monkeypatch):
    seen, levels = [], []
    monkeypatch.setattr(
        randaugment, "apply", lambda name, picture, level, *_: seen.append(name) or levels.append(level) or picture
    )
    policy, g = RandAugment.of(RECIPE, FILL, "bicubic"), np.random.default_rng(0)
    n = 6000
    for _ in range(n):
        policy(IMAGE[:2, :2], g)
    assert len(seen) == pytest.approx(n, abs=5 * (n / 2) ** 0.5)  # 2 n layers at 1/2
    counts = [seen.count(name) for name in INCREASING]
    assert sum(counts) == len(seen) and abs(np.array(counts) - n / 15).max() < 5 * (n / 15) ** 0.5
    clipped = np.array(levels)
    assert clipped.max() == 10  # two deviations up, cut off
    assert np.median(clipped) == pytest.approx(9, abs=0.05)
    assert np.mean(clipped == 10) == pytest.approx(0.0228, abs=0.01)
    assert np.std(clipped[clipped < 9]) == pytest.approx(0.5 * (1 - 2 / np.pi) ** 0.5, rel=0.05)  # half a normal


@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        (RECIPE, {"magnitude": 9, "layers": 2, "probability": 0.5, "noise": 0.5, "increasing": True, "largest": 10}),
        ("rand", {"magnitude": 10, "layers": 2, "noise": 0, "increasing": False}),
        ("rand-n3-m5-p0.25-mmax20-mstd101", {"layers": 3, "magnitude": 5, "probability": 0.25, "largest": 20,
                                             "noise": float("inf")}),
    ],
)  # fmt: skip
def test_the_grammar(policy, fields):
    found = RandAugment.of(policy, FILL, "bicubic")
    assert {name: getattr(found, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        ("augmix-m3", "augmix"), ("rand-w0", "'w0'"), ("rand-m9-inc0", "inc1"), ("rand-m", "'m'"),
        ("rand-m9-m8", "twice"), ("rand-n0", "whole number"), ("rand-p2", "0..1"), ("rand-tweights", "tweights"),
        ("", "begins with ''"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_said_with_the_grammar(policy, word):
    with pytest.raises(UserError, match=word) as error:
        RandAugment.of(policy, FILL, "bicubic")
    assert "mstd0.5" in str(error.value)


@pytest.mark.parametrize("image", [IMAGE[..., :1], IMAGE.astype(np.float32), IMAGE.astype(np.uint16)])
def test_only_uint8_rgb(image):
    with pytest.raises(UserError, match="uint8 RGB"):
        RandAugment.of(RECIPE, FILL, "bicubic")(image, np.random.default_rng(0))


def test_a_generators_state_decides_everything():
    policy = RandAugment.of("rand-m9-p1-mstd0.5-inc1", FILL, "random")
    one, two, other = (policy(IMAGE, np.random.default_rng(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@pytest.mark.parametrize("level", [0.0, 3.3, 9.0, 10.0])
def test_every_operation_is_timms(name, level, monkeypatch):
    timm = pytest.importorskip("timm.data.auto_augment")
    for sign in (0.0, 1.0):
        monkeypatch.setattr(timm.random, "random", lambda sign=sign: sign)
        to_arguments = timm.LEVEL_TO_ARG[name]
        arguments = to_arguments(level, {}) if to_arguments else ()
        if name.startswith("Posterize") and arguments[0] < 1:
            pytest.skip("Pillow refuses timm's 0 bits")
        theirs = timm.NAME_TO_OP[name](
            Image.fromarray(IMAGE), *arguments, fillcolor=FILL, resample=Image.Resampling.BICUBIC
        )
        np.testing.assert_array_equal(run(name, level, sign, "bicubic"), np.asarray(theirs))
