"""Pictures on a canvas, and crops of volumes: what lies where, at which size, and what is refused."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from mae_jax.core.errors import UserError
from mae_jax.data.canvas import Canvas
from mae_jax.data.decode import BadImage, decode
from mae_jax.data.picture import Picture
from mae_jax.data.transforms import resize
from mae_jax.data.volume_crop import VolumeCrop


@pytest.fixture(scope="module")
def photo():
    return load_sample_image("china.jpg")[:400, :600]


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=92)
    return file.getvalue()


def no_draw(stream):
    raise AssertionError("a canvas has nothing random")


def place(size, image, channels=3):
    out = Canvas(size, channels)("image", {"image": image}, no_draw)
    assert out.keys() == {"", ".extent"} and out[""].dtype == np.uint8 and out[".extent"].dtype == np.int32
    assert out[""].shape == (*size, channels)
    h, w = out[".extent"][2:]
    assert not out[""][h:].any() and not out[""][:, w:].any()
    return out[""][:h, :w], tuple(out[".extent"])


def test_what_fits_lies_there_as_it_is(photo):
    found, extent = place((400, 700), photo)
    np.testing.assert_array_equal(found, photo)
    assert extent == (400, 600, 400, 600)
    data = jpeg(photo)
    np.testing.assert_array_equal(place((512, 640), data)[0], decode(data, 3, exact=False))


@pytest.mark.parametrize(
    "size, shrink, on_canvas",
    [
        ((300, 512), 1, (300, 450)),  # 3/4: too large for a half
        ((200, 512), 2, (200, 300)),  # exactly a half: decoded so, not resized
        ((180, 512), 2, (180, 270)),  # a half, then resized
        ((512, 80), 4, (53, 80)),  # 600 -> 150 -> 80
        ((512, 3), 8, (2, 3)),
    ],
)
def test_large_jpegs_are_decoded_small_then_resized(photo, size, shrink, on_canvas):
    data = jpeg(photo)
    found, extent = place(size, data)
    assert extent == (400, 600, *on_canvas)
    small = decode(data, 3, shrink, exact=False)
    np.testing.assert_array_equal(found, small if small.shape[:2] == on_canvas else resize(small, on_canvas))


def test_arrays_are_resized_with_antialiasing(photo):
    found, extent = place((100, 100), photo)
    assert extent == (400, 600, 67, 100)
    np.testing.assert_array_equal(found, resize(photo, (67, 100)))
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(place((16, 16), stripes, 1)[0][:, 2:-2] - 127.5).max() < 3  # without it: 0 or 255
    assert place((4, 900), np.zeros((1000, 1, 2), np.uint8), 2)[1] == (1000, 1, 4, 1)


def test_turned_jpegs_lie_upright(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", exif=exif)
    assert place((512, 512), file.getvalue())[1] == (600, 400, 512, 341)


def test_a_large_picture_is_decoded_small_once(photo):
    class Watched(Picture):
        asked = []

        def pixels(self, channels, shrink=1, exact=True):
            self.asked.append((channels, shrink, exact))
            return super().pixels(channels, shrink, exact)

    assert place((120, 512), Watched(jpeg(photo)))[1] == (400, 600, 120, 180)
    assert Watched.asked == [(3, 2, False)]


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_pixels_are_for_the_host_path(dtype):
    with pytest.raises(BadImage, match=rf"{np.dtype(dtype)} pixels.*config.augment.where=host"):
        place((16, 16), np.zeros((20, 20, 3), dtype))


def test_a_record_without_an_image_is_named():
    with pytest.raises(UserError, match="reads 'image', but the data's records hold 'volume'"):
        Canvas((8, 8), 3)("image", {"volume": np.zeros(3)}, no_draw)


def test_leaves_pickle_small():
    for leaf in (Canvas((512, 512), 3), VolumeCrop((96, 96, 96, 1), "float32", 0.75)):
        assert pickle.loads(pickle.dumps(leaf)) == leaf and len(pickle.dumps(leaf)) < 500


def volume_of(value, shape=(9, 8, 10, 1)):
    """Every voxel tells its place; 0 at `value`."""
    out = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    out[value] = 0
    return out


def crops(volume, positive, n=600, size=(4, 4, 4, 1)):
    leaf, rng = VolumeCrop(size, "float32", positive), np.random.default_rng(5)
    return [leaf("volume", {"volume": volume}, lambda stream: rng) for _ in range(n)]


def test_crops_are_parts_of_the_volume_and_reach_its_corners():
    volume = volume_of(np.s_[:0])
    corners = set()
    for crop in crops(volume, 0.75):
        assert crop.shape == (4, 4, 4, 1)
        start = np.unravel_index(int(crop[0, 0, 0, 0]) - 1, volume.shape)
        np.testing.assert_array_equal(crop, volume[tuple(slice(s, s + n) for s, n in zip(start, crop.shape))])
        corners.add(start[:3])
    assert {0, 5} == {c[0] for c in corners} & {0, 5} and {0, 4} <= {c[1] for c in corners}


def test_share_of_crops_about_a_voxel_that_is_not_zero():
    volume = np.zeros((30, 6, 6, 1), np.float32)
    volume[25] = 1  # a crop of 5 about any other voxel shows it from 23, 24 and 26..29, the last two moved inside
    for positive, expected in ((1.0, 1.0), (0.75, 0.75 + 0.25 * 6 / 29), (0.0, 6 / 29)):
        shows = np.mean([crop.any() for crop in crops(volume, positive, 800, (5, 6, 6, 1))])
        assert abs(shows - expected) <= 5 * np.sqrt(expected * (1 - expected) / 800)


def test_a_rare_voxel_is_found_and_a_missing_kind_is_replaced():
    volume = np.zeros((20, 20, 20, 1), np.float32)
    volume[3, 19, 8] = 1
    assert all(crop[2, 3, 2, 0] == 1 for crop in crops(volume, 1.0, 5))  # moved inside at the border
    assert all(not crop.any() for crop in crops(np.zeros_like(volume), 1.0, 3))


def test_without_a_draw_the_middle_is_cut():
    volume = volume_of(np.s_[:0])
    found = VolumeCrop((5, 4, 2, 1), "float32", None)("volume", {"volume": volume}, no_draw)
    np.testing.assert_array_equal(found, volume[2:7, 2:6, 4:6])


@pytest.mark.parametrize("shape", [(9, 3, 10, 1), (9, 8, 10, 2), (9, 8, 10)])
def test_volumes_that_hold_no_crop_are_refused(shape):
    with pytest.raises(UserError, match=r"'volume' of shape .* of which no crop \(4, 4, 4, 1\)"):
        crops(np.zeros(shape, np.float32), 0.5, 1)
