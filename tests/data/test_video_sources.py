"""Sources of videos: what each holds, how it splits, and what it says when it cannot."""

import pickle

import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.data.sources import make_source


@pytest.mark.parametrize("edge", ["bounce", "wrap"])
def test_moving_digits_are_whole_digits_with_constant_velocity(edge):
    source = make_source("moving_digits", "train", {"edge": edge, "frames": 6, "size": 20, "length": 40})
    assert len(source) == 40 and len(source.classes) == 10
    turned = 0
    for i in range(40):
        video = source[i]["video"]
        clip = video.frames(range(6))
        assert clip.shape == (6, 20, 20, 3) and clip.dtype == np.uint8 and video.size == (20, 20) and len(video) == 6
        digit = source.digits.images[i][..., 0]
        for frame, place in zip(clip, source.places(i), strict=True):
            shown = np.roll(frame, tuple(-place), (0, 1))
            np.testing.assert_array_equal(shown[:8, :8], np.repeat(digit[..., None], 3, axis=-1))
            assert not shown[8:].any() and not shown[:, 8:].any()
        steps = np.diff(source.places(i), axis=0)
        steps = (steps + 10) % 20 - 10  # round the edge
        assert np.abs(steps).max() <= 3  # 2 pixels per frame, and the rounding
        straight = np.ptp(steps, axis=0) <= 1  # rounding alone
        assert straight.all() or edge == "bounce"
        turned += not straight.all()
    assert turned > 0 or edge == "wrap"
    np.testing.assert_array_equal(source[7]["video"].frames([5, 1, 1]), source[7]["video"].frames(range(6))[[5, 1, 1]])


def test_no_digit_image_moves_in_both_splits():
    train, test = (make_source("moving_digits", split, {}) for split in ("train", "val"))
    assert len(train) == len(test) == 2000
    assert not set(train.digits.numbers) & set(test.digits.numbers)
    assert train.labels[1437 + 5] == train.digits.labels[5]
    other = pickle.loads(pickle.dumps(train))
    np.testing.assert_array_equal(other[3]["video"].frames([2]), train[3]["video"].frames([2]))
    assert not np.array_equal(train.places(3), test.places(3))


@pytest.mark.parametrize("fields", [{"size": 7}, {"frames": 0}, {"edge": "stop"}, {"speed": -1.0}])
def test_moving_digits_that_cannot_be(fields):
    with pytest.raises(UserError, match=rf"data.{next(iter(fields))}"):
        make_source("moving_digits", "train", fields)
