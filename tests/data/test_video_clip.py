"""Clips out of videos: which frames, by closed forms of VideoMAE's rules, and which part of them."""

import dataclasses
import itertools

import numpy as np
import pytest
from tiny_batches import assert_same, take
from tiny_videos import numbered, numbers, write_video

from mae_jax.core.errors import UserError
from mae_jax.data import frame_sampling as sampling
from mae_jax.data.order import Draws
from mae_jax.data.pipeline import eval_batches, train_batches
from mae_jax.data.resize import resize
from mae_jax.data.sources import make_source
from mae_jax.data.transforms import resize_and_center_crop
from mae_jax.data.video import VideoArray
from mae_jax.data.video_clip import VideoClip
from mae_jax.data.views import Views

VIDEO = numbered(60)


class First(np.random.Generator):
    """Draws that take the lowest or the highest of what there is."""

    def __init__(self, highest):
        super().__init__(np.random.Philox(0))
        self.highest = highest

    def integers(self, n, size=None):
        return np.broadcast_to(n - 1 if self.highest else 0, size or ())[()]


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_dense_frames_by_the_sheet(stride):
    """duration - 16 stride + 1 starts; the index advances while that stays short of the last frame."""
    for length, highest in itertools.product([1, 2, 7, 15, 16, 31, 32, 63, 64, 65, 200], [False, True]):
        start = max(0, length - 16 * stride) if highest else 0
        index, wanted = start + 1, []  # the authors count from 1
        for _ in range(16):
            wanted.append(index - 1)
            index += stride if index + stride < length else 0
        assert sampling.dense(length, 16, stride, First(highest)).tolist() == wanted
        if stride > 1 and length > 16 * stride and highest:  # nothing repeats
            assert (np.diff(wanted) == stride).all() and wanted[-1] == length - stride


def test_sparse_frames_by_the_sheet():
    assert sampling.sparse(64, 8, First(False)).tolist() == list(range(0, 64, 8))
    assert sampling.sparse(67, 8, First(True)).tolist() == list(range(7, 64, 8))
    assert sampling.sparse(7, 8, First(True)).tolist() == [0] * 8
    assert sampling.sparse_view(64, 8).tolist() == list(range(4, 64, 8))  # middles
    # Two clips are every other of the starts and the middles of the segments, sorted.
    ticks = sorted([int(50 / 8 * i) for i in range(8)] + [int(50 / 16 + 50 / 8 * i) for i in range(8)])
    assert sampling.sparse_view(50, 8, 0, 2).tolist() == ticks[::2]
    assert sampling.sparse_view(50, 8, 1, 2).tolist() == ticks[1::2]


def test_clips_of_an_evaluation_are_spread_evenly():
    strided = np.arange(0, 300, 4)  # 75 frames, 59 more than a clip
    for k, start in enumerate([0, 14, 29, 44, 59]):
        np.testing.assert_array_equal(sampling.dense_view(300, 16, 4, k, 5), strided[start : start + 16])
    np.testing.assert_array_equal(sampling.dense_view(300, 16, 4), strided[29:45])
    short = [0, 4, 8, *[8] * 13]
    assert sampling.dense_view(10, 16, 4, 2, 5).tolist() == sampling.dense_view(10, 16, 4).tolist() == short


def clip(video=VIDEO, draws=None, **fields):
    record = {"video": VideoArray(video)}
    return VideoClip(**{"shape": (8, 48, 64), "stride": 2, "crop": "centre"} | fields)(
        "video", record, draws or Draws(0, 3)
    )


def test_frames_come_in_time_and_middle_first_without_draws():
    drawn = numbers(clip())
    assert (np.diff(drawn) == 2).all()
    assert numbers(clip(view=0)) == sampling.dense_view(60, 8, 2).tolist()
    assert numbers(clip(sampling="sparse", view=0)) == sampling.sparse_view(60, 8).tolist()
    assert numbers(clip(view=1, views=(3, 1))) == sampling.dense_view(60, 8, 2, 1, 3).tolist()
    seen = {numbers(clip(draws=Draws(0, position)))[0] for position in range(60)}
    assert len(seen) > 25 and max(seen) <= 60 - 16


def test_crops_are_the_same_for_all_frames():
    """A video that stands still stays still, whatever is drawn."""
    still = np.repeat(VIDEO[:1], 60, axis=0)
    policy = dict(randaugment="rand-m7-n4-mstd0.5-inc1", flip=True, resample="bicubic")
    for crop in ("multi_scale", "resized"):
        got = [clip(still, Draws(0, i), shape=(4, 32, 32), crop=crop, **policy) for i in range(12)]
        assert all((frames == frames[:1]).all() for frames in got)
        assert len({frames.tobytes() for frames in got}) == 12


def test_multi_scale_crops_are_of_the_sizes_and_places_listed():
    """Of a still 48 x 64 video: 10 pairs x 13 places of int(48 s), each resized by the house's law."""
    still = np.repeat(VIDEO[:1], 20, axis=0)
    sides = [48, 42, 36, 31]
    wanted = set()
    for i, h in enumerate(sides):
        for j, w in enumerate(sides):
            if abs(i - j) <= 1:
                x, y = (64 - w) // 4, (48 - h) // 4
                for a, b in [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1),
                             (1, 3), (3, 3)]:  # fmt: skip
                    cut = still[0, b * y : b * y + h, a * x : a * x + w]
                    wanted.add(resize(cut, (24, 24), resample="bilinear").tobytes())
    got = {clip(still, Draws(0, i), shape=(1, 24, 24), crop="multi_scale").tobytes() for i in range(60)}
    assert got <= wanted and len(got) > 25


def test_views_of_an_evaluation():
    """Three crops along the longer side of frames whose shorter one fits; one is the centre crop of images."""
    small = {"shape": (8, 24, 24), "resample": "bilinear"}
    scaled = np.stack([resize(frame, (24, 32), resample="bilinear") for frame in VIDEO])
    for view in range(6):
        frames = sampling.dense_view(60, 8, 2, view // 3, 2)
        left = [0, 4, 8][view % 3]
        got = clip(view=view, views=(2, 3), **small)
        np.testing.assert_array_equal(got, scaled[frames][:, :, left : left + 24])
    tall = clip(VIDEO.swapaxes(1, 2), view=2, views=(1, 3), **small)
    assert tall.shape == (8, 24, 24, 3)
    np.testing.assert_array_equal(tall[0], resize(VIDEO.swapaxes(1, 2)[22], (32, 24), resample="bilinear")[8:])
    one = clip(view=0, crop_fraction=0.875, **small)
    wanted = resize_and_center_crop(VIDEO[sampling.dense_view(60, 8, 2)[0]], (24, 24), 0.875, "bilinear")
    np.testing.assert_array_equal(one[0], wanted)


def test_what_cannot_be():
    for field, value in (("crop", "center"), ("sampling", "dens")):
        with pytest.raises(UserError, match=f"augment.video_{field} is '{value}'"):
            VideoClip((8, 4, 4), **{field: value})
    with pytest.raises(UserError, match="the method reads 'video'"):
        VideoClip((8, 4, 4))("video", {"image": VIDEO[0]}, Draws(0, 0))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three classes of three files each of 30 frames, and one that is cut in half."""
    root = tmp_path_factory.mktemp("classes")
    for i in range(9):
        write_video(root / f"class{i % 3}" / f"{i}.mp4", numbered(30, seed=i))
    data = (root / "class1" / "4.mp4").read_bytes()
    (root / "class1" / "4.mp4").write_bytes(data[: len(data) // 2])
    return root


VIEWS = Views({"video": VideoClip((6, 32, 32), stride=2, flip=True)})


def open_videos(root):
    return make_source("video", "train", {"path": str(root), "holdout": 0.0})


def test_batches_are_functions_of_their_numbers_alone(videos):
    source = open_videos(videos)
    kwargs = dict(batch=4, seed=1, repeats=2, max_bad=0.5)
    whole = take(5, source, VIEWS, **kwargs)
    assert_same(whole, take(5, source, VIEWS, **kwargs, workers=1))
    assert_same(whole[3:], take(2, source, VIEWS, **kwargs, start=3))


def test_repeats_share_frames_and_not_crops(videos):
    views = Views({"video": VideoClip((6, 32, 32), stride=2), "same": Frames(VideoClip((6, 48, 64), 2, crop="centre"))})
    for batch in take(3, open_videos(videos), views, batch=6, seed=1, repeats=3, max_bad=0.5):
        shown = np.array([numbers(frames) for frames in batch["same"]]).reshape(2, 3, 6)
        assert (shown == shown[:, :1]).all()
        crops = batch["video"].reshape(2, 3, -1)
        assert (crops[:, 0] != crops[:, 1]).any(axis=1).all()


@dataclasses.dataclass(frozen=True)
class Frames:
    """The clip of the leaf "video", under another name."""

    clip: VideoClip

    def __call__(self, name, record, draw):
        return self.clip("video", record, draw)


def test_a_cut_file_is_replaced_and_counted(videos):
    source = open_videos(videos)
    bad = next(i for i in range(9) if source.name(i) == "class1/4.mp4")
    with eval_batches(source, Views({"video": VideoClip((6, 32, 32), 2, view=0)}), batch=9, max_bad=0.5) as batches:
        (batch,) = list(batches)
    assert batch["replaced"].tolist() == [i == bad for i in range(9)]
    assert batch["index"][bad] == bad + 1 and not batch["valid"][bad]
    assert list(batches.problems.found) == [bad] and "class1/4.mp4" in batches.problems.found[bad]
    with pytest.raises(UserError, match=r"class1/4\.mp4"), train_batches(source, VIEWS, batch=9, seed=0) as batches:
        for _ in range(3):
            next(batches)
