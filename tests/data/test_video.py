"""Videos by frame number: exact, whatever the file; what cannot be used is a BadImage."""

import numpy as np
import pytest
from tiny_videos import numbered, numbers, write_frames, write_video

from mae_jax.core.errors import UserError
from mae_jax.data import libraries, limits, video_file
from mae_jax.data.limits import BadImage
from mae_jax.data.video import FrameFolder, VideoArray, as_video
from mae_jax.data.video_file import VideoFile

COUNT = 40
FRAMES = numbered(COUNT)
FILES = {
    "h264.mp4": {}, "open.mp4": {"x264-params": "open-gop=1:b-adapt=0:keyint=8"}, "h264.mkv": {}, "h264.ts": {},
    "h264.avi": {}, "mpeg4.avi": {"codec": "mpeg4"}, "plain.avi": {"codec": "mpeg4", "bf": "0"},
    "mpeg4.mp4": {"codec": "mpeg4"},
}  # fmt: skip
AS_IS = {"avoid_negative_ts": "disabled"}
COUNTED = ("h264.avi", "mpeg4.avi")  # frames reordered in a container without times


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {name: write_video(folder / name, FRAMES, **options) for name, options in FILES.items()}


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_that_were_encoded(files, name):
    video = VideoFile(files[name])
    assert len(video) == COUNT and video.fps == 25 and video.size == (48, 64)
    rng = np.random.default_rng(0)
    for wanted in ([0], [COUNT - 1], [7, 8, 9], range(3, 35, 4), [30, 2, 30, 17], *rng.integers(0, COUNT, (12, 6))):
        got = video.frames(wanted)
        assert got.shape == (len(wanted), 48, 64, 3) and got.dtype == np.uint8
        assert numbers(got) == list(wanted)
    everything = VideoFile(files[name].read_bytes()).frames(range(COUNT))
    assert numbers(everything) == list(range(COUNT))
    assert np.abs(everything.astype(int) - FRAMES).mean() < 6
    assert bool(video._index.keys) == (name not in COUNTED)  # by times, and no times were wrong
    # Not a bit depends on what else was asked for.
    np.testing.assert_array_equal(VideoFile(files[name]).frames([5, 21, 38]), everything[[5, 21, 38]])


def test_opencv_decodes_the_same_pixels(files):
    import cv2

    capture = cv2.VideoCapture(str(files["mpeg4.mp4"]))
    theirs = np.stack([capture.read()[1][..., ::-1] for _ in range(COUNT)])
    assert np.abs(VideoFile(files["mpeg4.mp4"]).frames(range(COUNT)).astype(int) - theirs).max() <= 1


def test_what_was_decoded_is_kept(files, monkeypatch):
    video = VideoFile(files["h264.mp4"])
    first = video.frames([4, 8, 12])
    monkeypatch.setattr(video, "_by_time", lambda numbers: pytest.fail("decoded again"))
    np.testing.assert_array_equal(video.frames([12, 4, 4]), first[[2, 0, 0]])


def test_times_that_lie_cost_time_and_no_frame(files):
    """Where frames do not come at their packets' times, they are counted from the start."""
    video = VideoFile(files["h264.mp4"])
    video._index = video._index._replace(times=[t + 1 for t in video._index.times])
    assert numbers(video.frames([9, 3])) == [9, 3]


def test_films_cut_by_an_edit_list(files, tmp_path):
    """As `ffmpeg -ss -c copy` writes them: packets are there from a key frame on, and 11 frames are not shown."""
    import av

    with av.open(str(files["h264.mp4"])) as whole, av.open(str(tmp_path / "cut.mp4"), "w", options=AS_IS) as cut:
        stream = whole.streams.video[0]
        copy = cut.add_stream_from_template(stream)
        for packet in whole.demux(stream):
            if packet.dts is not None:
                shift = round(11 / 25 / stream.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                cut.mux(packet)
    video = VideoFile(tmp_path / "cut.mp4")
    assert len(video) == COUNT - 11
    assert numbers(video.frames(range(COUNT - 11))) == list(range(11, COUNT))
    assert numbers(VideoFile(tmp_path / "cut.mp4").frames([2, 20])) == [13, 31] and video._index.keys


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_videos_come_upright(tmp_path, rotation):
    import cv2

    path = write_video(tmp_path / "turned.mp4", FRAMES[:3], rotation=rotation)
    capture = cv2.VideoCapture(str(path))  # heeds the rotation itself
    theirs = capture.read()[1][..., ::-1]
    video = VideoFile(path)
    assert video.size == theirs.shape[:2] == ((64, 48) if rotation != 180 else (48, 64))
    assert np.abs(video.frames([0])[0].astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "mpeg4.avi", "plain.avi"])
def test_files_cut_in_half_are_bad(files, name):
    data = files[name].read_bytes()
    for part in (data[: len(data) // 2], data[: len(data) // 20], b"", b"no video at all" * 50):
        with pytest.raises(BadImage):
            VideoFile(part)


def test_damaged_inside(files):
    """Random bytes among a file's: its frames, or an error, never other frames."""
    data, whole = files["plain.avi"].read_bytes(), VideoFile(files["plain.avi"]).frames(range(COUNT))
    reasons = []
    for seed in range(30):
        rng, broken = np.random.default_rng(seed), bytearray(data)
        at = int(rng.integers(len(data) // 10, len(data) * 9 // 10))
        broken[at : at + 20] = rng.bytes(20)
        try:
            np.testing.assert_array_equal(VideoFile(bytes(broken)).frames(range(COUNT)), whole)
        except BadImage as error:
            reasons.append(str(error))
    assert len(reasons) > 10
    for reason in ("only in part", "cannot be decoded"):
        assert any(reason in text for text in reasons)


def test_sound_alone_and_pixels_beyond_the_limit(files, tmp_path, monkeypatch):
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(BadImage, match="no video"):
        VideoFile(tmp_path / "sound.mp4")
    with pytest.raises(BadImage, match="cannot be decoded"):
        VideoFile(tmp_path / "missing.mp4")
    monkeypatch.setattr(limits, "MAX_PIXELS", 1000)
    with pytest.raises(BadImage, match="MAX_PIXELS"):
        VideoFile(files["h264.mp4"])


def test_numbers_outside_the_video(files):
    for video in (VideoFile(files["h264.mp4"]), VideoArray(FRAMES)):
        with pytest.raises(IndexError, match="40 frames"):
            video.frames([3, COUNT])
        with pytest.raises(IndexError):
            video.frames([-1])
        assert video.frames([]).shape == (0, 48, 64, 3)


def test_without_pyav_one_is_told_what_to_install(files, monkeypatch):
    monkeypatch.setattr(video_file, "library", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mae_jax\[video\]'"):
        as_video(files["h264.mp4"])
    assert libraries.library("av") is not None


def test_folders_of_frames(tmp_path):
    video = as_video(write_frames(tmp_path / "padded", FRAMES[:12]))
    assert isinstance(video, FrameFolder) and len(video) == 12 and video.size == (48, 64)
    np.testing.assert_array_equal(video.frames([11, 0, 3]), FRAMES[[11, 0, 3]])
    bare = FrameFolder(write_frames(tmp_path / "bare", FRAMES[:12], "frame{}.png"), limit=11)  # 1, 2, ... 10, 11, 12
    assert len(bare) == 11
    np.testing.assert_array_equal(bare.frames(range(11)), FRAMES[:11])
    with pytest.raises(BadImage, match="12 frames are there, and 13 expected"):
        FrameFolder(tmp_path / "bare", limit=13)
    (tmp_path / "bare" / "frame3.png").write_bytes(b"broken")
    np.testing.assert_array_equal(bare.frames([3]), FRAMES[[3]])
    with pytest.raises(BadImage, match="no known image format"):
        FrameFolder(tmp_path / "bare").frames([2, 3])
    write_frames(tmp_path / "bare", FRAMES[:1, :24], "frame3{}.png")  # frame31
    with pytest.raises(BadImage, match=r"frame31.png is uint8 \(24, 64\)"):
        FrameFolder(tmp_path / "bare").frames([12])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadImage, match="0 frames"):
        as_video(tmp_path / "empty")


def test_arrays():
    grey = VideoArray(FRAMES[..., :1])
    np.testing.assert_array_equal(grey.frames([2, 2, 0]), FRAMES[[2, 2, 0]])  # the frames are grey
    assert as_video(FRAMES).signature() == FRAMES.tobytes()
    for wrong in (FRAMES.astype(np.float32), FRAMES[0, 0], FRAMES[..., :2], FRAMES[:0]):
        with pytest.raises(BadImage, match="expected"):
            as_video(wrong)
