"""Resizing against Pillow, against closed forms, and the two libraries against each other."""

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import resize as module
from mae_jax.data.resize import KERNELS, resize

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


@pytest.fixture(scope="module")
def photo():
    from sklearn.datasets import load_sample_image

    return np.ascontiguousarray(load_sample_image("china.jpg"))


@pytest.fixture(params=["cykooz", "pillow"])
def by(request, monkeypatch):
    """Either library."""
    if request.param == "pillow":
        monkeypatch.setattr(module, "library", lambda name: None)
    else:
        pytest.importorskip("cykooz_resizer")
    return request.param


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


@pytest.mark.parametrize("kernel", KERNELS)
def test_bytes_are_pillows_within_45_db_over_many_boxes(photo, kernel):
    """Shrinking, enlarging and turning the aspect; a bicubic without antialiasing: below 35 dB on the large boxes."""
    pytest.importorskip("cykooz_resizer")
    g, worst = np.random.default_rng(0), np.inf
    for _ in range(25):
        h, w = int(g.integers(60, 427)), int(g.integers(60, 640))
        top, left = int(g.integers(427 - h + 1)), int(g.integers(640 - w + 1))
        cut = photo[top : top + h, left : left + w]
        theirs = np.asarray(Image.fromarray(np.ascontiguousarray(cut)).resize((160, 128), FILTERS[kernel]))
        worst = min(worst, psnr(resize(cut, (128, 160), resample=kernel), theirs))
    assert worst > 45


def test_a_fractional_part_is_pillows_box(photo, by):
    part = (10.25, 20.5, 301.5, 400.75)
    box = (part[1], part[0], part[1] + part[3], part[0] + part[2])
    theirs = Image.fromarray(photo).resize((96, 80), Image.Resampling.BICUBIC, box=box)
    assert psnr(resize(photo, (80, 96), part), np.asarray(theirs)) > 45
    moved = (part[0] + 1, *part[1:])
    assert psnr(resize(photo, (80, 96), moved), np.asarray(theirs)) < 45


@pytest.mark.parametrize(("c", "dtype"), [
    (1, np.uint8), (2, np.uint8), (4, np.uint8), (7, np.uint8), (1, np.uint16), (3, np.uint16), (6, np.uint16),
    (5, np.float32), (2, np.float64), (3, np.int32),
])  # fmt: skip
def test_any_channels_and_dtypes_are_resized_each_channel_by_itself(photo, by, c, dtype):
    """Alpha weights nothing; deeper values are the bytes' times 100, without clipping."""
    scale = 1 if dtype == np.uint8 else 100
    image = (np.concatenate([photo, photo[::-1], photo], 2)[:100, :120, :c].astype(np.float64) * scale).astype(dtype)
    out = resize(image, (37, 53))
    assert out.shape == (37, 53, c)
    assert out.dtype == (np.float32 if dtype == np.float64 else dtype)
    for i in range(c):
        plane = Image.fromarray(np.ascontiguousarray(image[..., i], np.float32))
        theirs = np.asarray(plane.resize((53, 37), Image.Resampling.BICUBIC))
        limits = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else np.finfo(np.float32)
        error = abs(out[..., i].astype(float) - theirs.clip(limits.min, limits.max)).max()
        assert error < (3.5 if dtype == np.uint8 else 0.6)


def test_linear_ramps_stay_linear(by):
    """Every kernel reproduces a straight line away from the edges."""
    ramp = np.repeat(np.arange(200, dtype=np.float32)[None, :, None], 30, axis=0)
    for kernel in KERNELS:
        inner = resize(ramp, (15, 80), resample=kernel)[7, 10:-10, 0]
        np.testing.assert_allclose(inner, (np.arange(10, 70) + 0.5) * 2.5 - 0.5, atol=0.02)


def test_sizes_of_one_pixel_and_nothing_to_do(by):
    image = np.full((1, 9, 3), 77, np.uint8)
    assert resize(image, (1, 9)) is image
    for size in [(1, 1), (5, 1), (1, 40), (7, 3)]:
        assert (resize(image, size) == 77).all() and resize(image, size).shape == (*size, 3)
