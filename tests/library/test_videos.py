"""Videos as a user has them: paths, bytes, arrays, one or many; what an evaluation of the same file sees."""

from pathlib import Path

import numpy as np
import pytest
from tiny_videos import numbered, numbers, write_frames, write_video

from mae_jax.core.errors import UserError
from mae_jax.data.order import Draws
from mae_jax.library.images import Images
from mae_jax.methods.base import Leaf
from mae_jax.schema import Augment
from mae_jax.train import inputs

SPEC = {"video": Leaf((4, 48, 64, 3))}
AUGMENT = Augment(options={"video_stride": 2})
CLIP = numbered(20)
MIDDLE = [6, 8, 10, 12]


def rows(given, **kwargs):
    images = Images(given, SPEC, AUGMENT, **kwargs)
    return images.rows(range(len(images)))["video"]


def test_paths_bytes_and_arrays(tmp_path):
    path = write_video(tmp_path / "a.mp4", CLIP)
    folder = write_frames(tmp_path / "frames", CLIP)
    wanted = inputs.views(SPEC, AUGMENT, train=False)({"video": str(path)}, Draws(0, 0))["video"]
    for given in (path, str(path), path.read_bytes(), [path], (str(path),)):
        np.testing.assert_array_equal(rows(given)[0], wanted)
    exact = CLIP[MIDDLE]
    for given in (CLIP, CLIP[None], [CLIP], folder, (CLIP / 255).astype(np.float32), {"video": CLIP[None]}):
        np.testing.assert_array_equal(rows(given)[0], exact)
    many = rows([path, CLIP[:12], folder])
    assert many.shape == (3, 4, 48, 64, 3) and many.dtype == np.uint8
    assert [numbers(clip) for clip in many] == [MIDDLE, [2, 4, 6, 8], MIDDLE]
    floats = np.zeros((2, 4, 48, 64, 3), np.float32)
    np.testing.assert_array_equal(rows(floats, prepare=False), floats)


@pytest.mark.parametrize(
    ("given", "error"),
    [(Path("nothing.mp4"), "the video 'nothing.mp4': .*No such file"), (b"nothing", "cannot use video 0"),
     (CLIP[0], "4 axes, or 5 for many"), (CLIP * 2.0, "floats from 0 to 510"), (CLIP[..., :2], "uint8")],
)  # fmt: skip
def test_what_is_no_video(given, error):
    with pytest.raises(UserError, match=error):
        rows(given)


def test_normalised_floats_are_not_taken_for_pixels():
    with pytest.raises(UserError, match="normalised floats, and 'video' is uint8"):
        rows(CLIP[:4], prepare=False)
