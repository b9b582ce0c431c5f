"""Videos: frames by number, exactly, from files, from folders of images and from arrays."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from mae_jax.data.decode import decode, upright_size
from mae_jax.data.limits import BadImage, check_size

FRAME_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class Video(ABC):
    """What record["video"] is. Frames are upright RGB; what comes out never depends on what else was asked for.

    Used by one thread, opened where it is read; not meant to be pickled.

    Attributes:
        fps: frames in a second; 0.0 where nobody knows.
    """

    fps: float = 0.0

    def __init__(self) -> None:
        self._kept: dict[int, np.ndarray] = {}

    @abstractmethod
    def __len__(self) -> int:
        """Number of frames. Raises BadImage."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(h, w) of every frame, upright. Raises BadImage."""

    @abstractmethod
    def _read(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        """The frames of these numbers, which ascend, each uint8 [h, w, 3]. Raises BadImage."""

    @abstractmethod
    def signature(self) -> bytes:
        """Other bytes for another video, found without decoding."""

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, h, w, 3]: the frames of these numbers, in any order, repeated or not.

        The frames of the last call are kept, so that the views of a record that ask for the same ones decode them once.

        Raises: BadImage; IndexError for a number outside 0..len - 1.
        """
        numbers = [int(i) for i in indices]
        if numbers and (min(numbers) < 0 or max(numbers) >= len(self)):
            raise IndexError(f"frames {min(numbers)}..{max(numbers)} of a video of {len(self)} frames")
        wanted = sorted(set(numbers))
        lacking = [i for i in wanted if i not in self._kept]
        found = self._read(lacking) if lacking else {}
        self._kept = {i: found[i] if i in found else self._kept[i] for i in wanted}
        return np.stack([self._kept[i] for i in numbers]) if numbers else np.empty((0, *self.size, 3), np.uint8)


class VideoArray(Video):
    """A video in memory.

    Args:
        array: uint8 [t, h, w, 3], or [t, h, w] and [t, h, w, 1], which are grey.
    """

    def __init__(self, array: np.ndarray, fps: float = 0.0):
        super().__init__()
        array = array[..., None] if array.ndim == 3 else array
        if array.ndim != 4 or array.shape[-1] not in (1, 3) or not len(array) or array.dtype != np.uint8:
            raise BadImage(f"its frames are {array.dtype} of shape {array.shape}: uint8 [t, h, w, 3 or 1] expected")
        check_size(*array.shape[1:3])
        self.array, self.fps = array, fps

    def __len__(self) -> int:
        return len(self.array)

    @property
    def size(self) -> tuple[int, int]:
        return self.array.shape[1], self.array.shape[2]

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        numbers = np.asarray(indices, np.int64)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise IndexError(f"frames {numbers.min()}..{numbers.max()} of a video of {len(self)} frames")
        return self._coloured(self.array[numbers])

    def signature(self) -> bytes:
        return np.ascontiguousarray(self.array).tobytes()

    def _read(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        return dict(zip(numbers, self._coloured(self.array[list(numbers)]), strict=True))

    @staticmethod
    def _coloured(frames: np.ndarray) -> np.ndarray:
        return np.repeat(frames, 3, axis=-1) if frames.shape[-1] == 1 else frames


class FrameFolder(Video):
    """A video as a directory of image files, one per frame, in the order of their names.

    Runs of digits in a name count by their value: frame 10 comes after frame 9, padded with zeros or not.

    Args:
        folder: the directory. Hidden files and what is no image (by the ending) are passed over.
        limit: so many frames of it, the first ones; None or 0: all.

    Raises: BadImage where there are no frames, or fewer than `limit`; OSError.
    """

    def __init__(self, folder: str | os.PathLike, limit: int | None = None):
        super().__init__()
        self.folder = os.fspath(folder)
        with os.scandir(self.folder) as entries:
            found = [e.name for e in entries if is_frame(e.name)]
        if len(found) < max(1, limit or 0):
            raise BadImage(f"{len(found)} frames are there, and {limit or 'at least 1'} expected")
        self.names = sorted(found, key=_by_value)[: limit or None]
        self._size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size(self) -> tuple[int, int]:
        if self._size is None:
            self._size = upright_size(self._bytes(0))
        return self._size

    def signature(self) -> bytes:
        return "\0".join(self.names).encode("utf-8", "surrogateescape") + self._bytes(0)

    def _read(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        found = {}
        for i in numbers:
            image = decode(self._bytes(i), channels=3)
            if image.dtype != np.uint8 or image.shape[:2] != self.size:
                raise BadImage(
                    f"its frame {self.names[i]} is {image.dtype} {image.shape[:2]}: uint8 {self.size} expected"
                )
            found[i] = image
        return found

    def _bytes(self, i: int) -> bytes:
        with open(os.path.join(self.folder, self.names[i]), "rb", buffering=0) as file:
            return file.read()


def is_frame(name: str) -> bool:
    """Whether a file of this name is a frame."""
    return not name.startswith(".") and name.lower().endswith(FRAME_ENDINGS)


def _by_value(name: str) -> tuple[list[tuple[int, str]], str]:
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)], name


def as_video(video: Video | np.ndarray | str | os.PathLike | bytes) -> Video:
    """A video as a handle: one already, an array, a folder of frames, or a file's path or bytes.

    Raises: BadImage; UserError where a file is to be read and PyAV is not installed.
    """
    if isinstance(video, Video):
        return video
    if isinstance(video, np.ndarray):
        return VideoArray(video)
    if not isinstance(video, bytes) and os.path.isdir(video):
        return FrameFolder(video)
    from mae_jax.data.video_file import VideoFile  # which stands on this file

    return VideoFile(video)
