"""Videos: frames by number, exactly, from files, from folders of images and from arrays."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from mae_jax.data.limits import BadImage, check_size


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

    def _read(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        return dict(zip(numbers, self._coloured(self.array[list(numbers)]), strict=True))

    @staticmethod
    def _coloured(frames: np.ndarray) -> np.ndarray:
        return np.repeat(frames, 3, axis=-1) if frames.shape[-1] == 1 else frames
