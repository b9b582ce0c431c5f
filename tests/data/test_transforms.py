"""Host transforms against closed forms and against Pillow."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from mae_jax.core.errors import UserError
from mae_jax.data import transforms
from mae_jax.data.decode import decode
from mae_jax.data.picture import Picture
from mae_jax.data.randaugment import RandAugment
from mae_jax.data.transforms import (
    HostAugment,
    crop_box,
    crop_box_single_draw,
    resize,
    resize_and_center_crop,
)


def rng(key=0):
    return np.random.default_rng(key)


def picture(h, w, c=3, dtype=np.uint8):
    """Smooth waves with a little noise."""
    y, x = np.mgrid[:h, :w]
    base = np.stack([np.sin(x / (7 + i)) * np.cos(y / (9 + i)) for i in range(c)], -1) * 100 + 128
    return (base + rng().normal(0, 4, (h, w, c))).clip(0, 255).astype(dtype)


def boxes(sample, h, w, n=20000, **bounds):
    g = rng(1)
    return np.array([sample(h, w, g, **bounds) for _ in range(n)])


def test_crop_box_law_on_a_square_where_every_draw_of_area_half_or_less_fits():
    """With area <= 1/2 and ratio in 3/4..4/3 no draw is refused, so area and log ratio are uniform, independent."""
    h = w = 1000
    top, left, height, width = boxes(crop_box, h, w, scale=(0.1, 0.5)).T
    area, aspect = height * width / (h * w), np.log(width / height)
    assert area.min() > 0.0995 and area.max() < 0.5005
    assert abs(aspect).max() < math.log(4 / 3) + 3e-3
    assert np.mean(area) == pytest.approx(0.3, rel=0.01)
    assert np.var(area) == pytest.approx(0.4**2 / 12, rel=0.03)
    assert abs(np.mean(aspect)) < 0.005
    assert np.var(aspect) == pytest.approx((2 * math.log(4 / 3)) ** 2 / 12, rel=0.03)
    assert abs(np.corrcoef(area, aspect)[0, 1]) < 0.03
    room = (h - height).clip(1)
    assert np.mean(top / room) == pytest.approx(0.5, abs=0.01)
    assert np.mean(left / (w - width).clip(1)) == pytest.approx(0.5, abs=0.01)
    assert (top + height <= h).all() and (left + width <= w).all()


def test_crop_box_area_under_refusal_matches_its_closed_form():
    """Scale 0.2..1 on a square: a draw (area a, log ratio r) is kept when |r| <= -ln a, so the kept area has density
    in proportion to min(1, -ln a / ln(4/3)) on 0.2..1 (nearly none reaches the fallback: ten refusals)."""
    a = np.linspace(0.2, 1, 100001)
    density = np.minimum(1, -np.log(a) / math.log(4 / 3))
    _, _, height, width = boxes(crop_box, 2000, 2000, n=30000).T
    assert np.mean(height * width / 4e6) == pytest.approx((a * density).sum() / density.sum(), rel=0.01)


def test_crop_box_falls_back_to_the_largest_centred_box():
    g = rng()
    assert crop_box(10, 1000, g, scale=(1, 1)) == (0, 493, 10, 13)  # round(10 * 4/3) wide
    assert crop_box(1000, 10, g, scale=(1, 1)) == (493, 0, 13, 10)
    assert crop_box(100, 100, g, scale=(1, 1), ratio=(1, 1)) == (0, 0, 100, 100)


def test_single_draw_clips_the_sides_where_the_loop_would_draw_again():
    height, width = boxes(crop_box_single_draw, 100, 300, scale=(0.9, 1.0)).T[2:]
    assert (height == 100).all()  # sqrt(0.9 * 30000 / (4/3)) = 142: always too tall
    assert width.min() >= 142 and width.max() <= 200
    top, left, height, width = boxes(crop_box_single_draw, 50, 60).T
    assert (top + height <= 50).all() and (left + width <= 60).all() and height.min() >= 1


def test_random_resized_crop_is_blind_to_pixels_outside_its_box():
    image = picture(80, 80)
    top, left, h, w = crop_box(80, 80, rng(3))
    other = np.full_like(image, 255)
    other[top : top + h, left : left + w] = image[top : top + h, left : left + w]
    ours = [transforms.random_resized_crop(i, (32, 32), rng(3)) for i in (image, other)]
    np.testing.assert_array_equal(*ours)


def test_evaluation_transform_is_short_side_256_centre_224():
    image = picture(333, 500)
    theirs = Image.fromarray(image).resize((256 * 500 // 333, 256), Image.Resampling.BICUBIC)
    left = round((theirs.width - 224) / 2)
    theirs = theirs.crop((left, 16, left + 224, 16 + 224))
    error = resize_and_center_crop(image, (224, 224)).astype(float) - np.asarray(theirs)
    assert np.mean(error**2) < 0.4  # 52 dB; a crop moved by one pixel: over 10
    upright = resize_and_center_crop(image.transpose(1, 0, 2), (224, 224))
    assert abs(upright.transpose(1, 0, 2).astype(int) - np.asarray(theirs)).max() <= 1


def test_evaluation_transform_leaves_an_image_of_the_size_alone_and_takes_other_shapes():
    image = picture(24, 40)
    assert resize_and_center_crop(image, (24, 40)) is image
    for h, w in [(24, 40), (40, 24), (7, 7), (1, 90)]:
        assert resize_and_center_crop(picture(33, 31), (h, w)).shape == (h, w, 3)
        assert resize_and_center_crop(picture(33, 31), (h, w), crop_fraction=1.0).shape == (h, w, 3)


def test_flip_happens_half_the_time_and_exchanges_left_and_right():
    image = picture(8, 8, 1)
    augment = HostAugment((8, 8), 1, crop_scale=None)
    out = [augment({"image": image}, rng(i)) for i in range(400)]
    flipped = [np.array_equal(o, image[:, ::-1]) for o in out]
    assert all(f or np.array_equal(o, image) for f, o in zip(flipped, out, strict=True))
    assert 150 < sum(flipped) < 250  # 5 sigma


@pytest.mark.parametrize(("side", "shrink", "bound"), [(24, 8, 2.5), (40, 4, 1.5), (80, 2, 1.2)])
def test_a_jpeg_decoded_small_gives_the_same_crop(side, shrink, bound):
    """scikit-learn's photograph (standard deviation about 80 grey levels), crops of at least half its area.

    The difference left is that the DCT averages over squares. (A crop moved by a pixel of the small image: over 4.)
    """
    from pathlib import Path

    import sklearn

    data = Path(sklearn.__file__).with_name("datasets").joinpath("images", "china.jpg").read_bytes()
    whole, errors = decode(data, 3), []
    for key in range(20):
        box = crop_box(427, 640, rng(key), (0.5, 1))
        if transforms.jpeg_shrink(box, (side, side)) == shrink:
            ours = HostAugment((side, side), 3, crop_scale=(0.5, 1), flip=False)({"image": data}, rng(key))
            exact = resize(transforms.crop(whole, box), (side, side))
            errors.append(abs(ours.astype(float) - exact).mean())
    assert len(errors) > 5 and np.mean(errors) < bound


def test_a_crop_of_a_shrunk_image_is_blind_to_pixels_outside_its_box():
    image, box = picture(100, 120), (41, 26, 240, 360)  # on an image of 400 x 480
    other = np.full_like(image, 255)
    other[10:71, 6:97] = image[10:71, 6:97]  # 41/4 .. 281/4 and 26/4 .. 386/4, out to whole pixels
    np.testing.assert_array_equal(*(transforms.resize_shrunk(i, box, 4, (30, 40)) for i in (image, other)))


def test_a_jpeg_is_not_decoded_small_when_the_crop_has_less_than_twice_the_pixels():
    assert transforms.jpeg_shrink((0, 0, 255, 999), (64, 64)) == 1
    assert transforms.jpeg_shrink((0, 0, 256, 999), (64, 64)) == 2
    assert transforms.jpeg_shrink((0, 0, 9999, 1024), (64, 64)) == 8


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"size": (0, 8)}, "height"),
        ({"size": (8, 8), "crop_scale": (0.5, 0.2)}, "crop_scale"),
        ({"size": (8, 8), "crop_ratio": (0, 1)}, "crop_ratio"),
        ({"size": (8, 8), "resample": "bicubik"}, "'bicubic'"),
        ({"size": (8, 8), "randaugment": "rand-m9", "channels": 1}, "uint8 RGB"),
        ({"size": (8, 8), "randaugment": "rand-m9", "dtype": "uint16"}, "uint8 RGB"),
        ({"size": (8, 8), "randaugment": "rand-m9", "resample": "lanczos"}, "'bilinear'"),
        ({"size": (8, 8), "randaugment": "augmix-m3"}, "augmix"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields, word):
    with pytest.raises(UserError, match=word):
        HostAugment(**fields)


def photograph():
    """scikit-learn's china.jpg, as a file of 500 x 375."""
    from sklearn.datasets import load_sample_image

    buffer = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).resize((500, 375)).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def test_random_crops_of_jpegs_are_quick_only_where_that_was_not_forbidden():
    """Exact: to the bit what is made of Pillow's pixels. Quick: at least 42 dB beside it."""
    data = photograph()
    whole = np.asarray(Image.open(io.BytesIO(data)))
    errors = []
    for key in range(8):
        theirs = resize(transforms.crop(whole, crop_box(375, 500, rng(key))), (224, 224))
        exact = HostAugment((224, 224), 3, flip=False, exact=True)({"image": data}, rng(key))
        np.testing.assert_array_equal(exact, theirs)
        quick = HostAugment((224, 224), 3, flip=False)({"image": data}, rng(key))
        errors.append(np.mean((quick.astype(float) - theirs) ** 2))
    assert 0 < np.mean(errors) < 255**2 / 10**4.2
    plain = HostAugment((224, 224), 3, crop_scale=None, flip=False)({"image": data}, rng())
    np.testing.assert_array_equal(plain, resize_and_center_crop(whole, (224, 224)))


def test_a_picture_bytes_and_pixels_give_the_same_crop():
    data = photograph()
    augment = HostAugment((64, 64), 3, exact=True, crop_scale=(0.1, 0.3))
    shared = Picture(data)
    for key in range(3):
        out = [augment({"image": i}, rng(key)) for i in (data, shared, Picture(data), decode(data, 3))]
        for other in out[1:]:
            np.testing.assert_array_equal(out[0], other)
    assert out[0].flags.c_contiguous


def test_randaugment_comes_after_crop_and_flip_and_moves_no_draw_before_it():
    image = picture(40, 50)
    plain, full = HostAugment((32, 32)), HostAugment((32, 32), randaugment="rand-m9-n2-p1-mstd0.5-inc1")
    for key in range(5):
        g = rng(key)
        before = plain({"image": image}, g)
        policy = RandAugment.of("rand-m9-n2-p1-mstd0.5-inc1", (124, 116, 104), "bicubic")
        np.testing.assert_array_equal(full({"image": image}, rng(key)), policy(before, g))
    deep = HostAugment((32, 32), randaugment="rand-m9")
    with pytest.raises(UserError, match="uint16"):
        deep({"image": image.astype(np.uint16)}, rng())
