"""Frames of video files by number, exactly, by PyAV (FFmpeg). Why PyAV, and what it costs: docs/video.md."""

import io
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.libraries import library
from mae_jax.data.limits import BadImage, check_size, reasons
from mae_jax.data.video import Video

GUESSED = ("avi",)  # containers that store no times of presentation: where frames are reordered, FFmpeg guesses them
GAP = 16  # frames that cost less to decode than to jump over to the next key frame
MAX_FRAMES = 10_000_000  # packets of one file
# What FFmpeg may take a file for. Left out are the lists of other files and addresses that it would follow (HLS, DASH,
# concat, SDP, image sequences), whatever a file is called.
CONTAINERS = (
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "ogg",
    "asf", "gif", "h264", "hevc", "m4v", "ivf", "nut", "dv", "rm", "wtv", "mxf", "y4m", "yuv4mpegpipe", "swf", "obu",
)  # fmt: skip
LACKING = (1.0, 0.1)  # seconds, or share if that is less, by which a file may end before its header says it does


class Index(NamedTuple):
    """A video's frames in the order in which they are shown.

    Attributes:
        times: when each is shown, ascending, in the stream's unit.
        keys: those at which decoding can start, ascending; [] where times are not to be relied on.
    """

    times: list[int]
    keys: list[int]


class VideoFile(Video):
    """A video file: the frames of its first video stream, numbered as they are shown.

    All packets' times are read first, without decoding, so that frames are counted and the header is not believed. To
    reach a frame, decoding starts at the last key frame shown before it, and frames on the way to which no other refers
    are left out. Where times turn out wrong, frames are decoded from the start and counted.

    Args:
        data: a path, or the file's bytes.

    Raises: BadImage for what is no whole video; UserError where PyAV is not installed.
    """

    def __init__(self, data: str | os.PathLike | bytes):
        super().__init__()
        self.data = data
        self._av = pyav()
        with reasons():
            self._open()
            check_size(self._codec.height, self._codec.width)
            self._index = self._read_index()
            self.fps = float(self._stream.average_rate or 0)
        self._reformatter = self._av.video.reformatter.VideoReformatter()  # one for all: a frame's own is set up anew
        self._size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self._index.times)

    @property
    def size(self) -> tuple[int, int]:
        if self._size is None:  # which way is up stands beside each frame
            self.frames([0])
        assert self._size is not None
        return self._size

    def signature(self) -> bytes:
        if isinstance(self.data, bytes):
            return self.data
        with open(self.data, "rb") as file:
            return file.read()

    def _open(self) -> None:
        """Open the file, or open it anew at its start."""
        if not isinstance(self.data, bytes) and os.path.exists(self.data) and not os.path.isfile(self.data):
            raise BadImage("it is no plain file")
        data = io.BytesIO(self.data) if isinstance(self.data, bytes) else os.path.abspath(self.data)
        whitelist = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
        self._container = self._av.open(data, options=whitelist)
        if not self._container.streams.video:
            raise BadImage("it holds no video")
        self._stream = self._container.streams.video[0]
        self._codec = self._stream.codec_context
        self._codec.thread_count, self._codec.thread_type = 1, "NONE"  # it is samples that run side by side

    def _read_index(self) -> Index:
        stream, found, packets, end = self._stream, [], 0, 0.0
        for packet in self._container.demux():
            if packet.is_corrupt:
                raise BadImage("it is damaged, or cut off")
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index and (packet.size or packet.dts is not None):
                packets += 1
                if packets > MAX_FRAMES:
                    raise BadImage(f"it has more than {MAX_FRAMES:,} frames")
                if packet.size:  # an empty one stands for the frame before it
                    found.append((packet.pts, packet.is_keyframe, not packet.is_discard))
        self._check_whole(packets, end)
        guessed = self._container.format.name in GUESSED
        known = all(time is not None for time, *_ in found) and not (guessed and self._codec.has_b_frames)
        times = sorted(time for time, _, shown in found if shown) if known else []
        keys = sorted(time for time, key, _ in found if key) if known else []  # those before a cut film's start as well
        exact = len(set(times)) == len(times) > 0 and len(keys) > 0 and keys[0] <= times[0]
        if not exact:
            self._open()
            times, keys = list(range(sum(1 for _ in self._container.decode(self._stream)))), []
        if not times:
            raise BadImage("its video has no frames")
        return Index(times, keys)

    def _check_whole(self, packets: int, end: float) -> None:
        """Raises BadImage where the header promises more than `packets` of video, or than `end` seconds of anything."""
        said, seconds = self._stream.frames, (self._container.duration or 0) / self._av.time_base
        if self._container.format.name.startswith("mov"):  # without what an edit list leaves out at the start
            said = min(said, len(self._stream.index_entries))
        if packets < said:
            raise BadImage(f"it is cut off: {packets} frames are there, and its header says {said}")
        if not said and end < seconds - min(LACKING[0], LACKING[1] * seconds):
            raise BadImage(f"it is cut off: it ends after {end:.1f} s, and its header says {seconds:.1f} s")

    def _read(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        with reasons():
            found = self._by_time(numbers) if self._index.keys else None
            if found is None:
                self._index = self._index._replace(keys=[])
                found = self._by_counting(numbers)
        return found

    def _by_time(self, numbers: Sequence[int]) -> dict[int, np.ndarray] | None:
        """None where a frame does not come at its time."""
        times, keys = self._index
        wanted = {times[n] for n in numbers}
        found: dict[int, np.ndarray] = {}
        shown, flow = times[0] - 1, None
        for number in numbers:
            time = times[number]
            key = keys[bisect_right(keys, time) - 1]
            if flow is None or bisect_right(times, key) - bisect_right(times, shown) > GAP:
                flow = self._from(key, wanted)
            for frame in flow:
                if frame.pts is None:
                    return None
                shown = frame.pts
                if shown >= time:
                    break
            if shown != time:
                return None
            found[number] = self._pixels(frame)
        return found

    def _from(self, key: int, wanted: set[int]) -> Iterator[Any]:
        """Decoded frames, from the key frame shown at the time `key` on."""
        self._container.seek(key, stream=self._stream)
        packets = self._container.demux(self._stream)
        first = next((p for p in packets if p.is_keyframe and p.pts is not None and p.pts >= key), None)
        if first is None or first.pts != key:  # the container's own index is not exact: look for it from the start
            self._open()
            packets = self._container.demux(self._stream)
            first = next(p for p in packets if p.is_keyframe and p.pts == key)
        yield from first.decode()
        for packet in packets:
            self._codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield from packet.decode()

    def _by_counting(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        self._open()
        wanted, found = set(numbers), {}
        for number, frame in enumerate(self._container.decode(self._stream)):
            if number in wanted:
                found[number] = self._pixels(frame)
                if len(found) == len(wanted):
                    return found
        raise BadImage(f"of its {len(self)} frames number {min(wanted - set(found))} cannot be decoded")

    def _pixels(self, frame: Any) -> np.ndarray:
        """Upright uint8 [h, w, 3]."""
        if frame.is_corrupt:
            raise BadImage("it is damaged: the decoder could make up a frame only in part")
        check_size(frame.height, frame.width)  # of each anew: a stream may change its size
        image = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        image = np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
        if self._size is None:
            self._size = image.shape[0], image.shape[1]
        if image.shape[:2] != self._size:
            raise BadImage(f"its frames change size, from {self._size} to {image.shape[:2]}")
        return image


def pyav() -> ModuleType:
    """The module `av`. Raises UserError where it is not installed."""
    av = library("av")
    if av is None:
        raise UserError("Video files are decoded by PyAV, which is not installed: pip install 'mae_jax[video]'.")
    return av
