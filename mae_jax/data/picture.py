"""One record's image, decoded when asked and once only: several views and repeated augmentation share it."""

from typing import Union

import numpy as np

from mae_jax.data import jpeg
from mae_jax.data.decode import decode, upright_size
from mae_jax.data.limits import check_size, reasons


class Picture:
    """Encoded bytes or an array [h, w] or [h, w, c], with what was decoded of it so far.

    What comes out never depends on what else was asked for. Used by one thread; not meant to be pickled.

    Attributes:
        data: as given.
        scalable: whether `pixels` heeds `shrink` and `exact` (a JPEG).
    """

    __slots__ = ("_header", "_kept", "_size", "data", "scalable")

    def __init__(self, data: bytes | np.ndarray):
        self.data = data
        self.scalable = not isinstance(data, np.ndarray) and jpeg.is_jpeg(data)
        self._header: jpeg.Header | None = None
        self._size: tuple[int, int] | None = None
        self._kept: dict[tuple[int, int, bool], np.ndarray] = {}

    @classmethod
    def of(cls, image: Union["Picture", bytes, np.ndarray]) -> "Picture":
        """`image`, made a Picture unless it is one."""
        return image if isinstance(image, Picture) else cls(image)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w), upright, from the header. Raises BadImage."""
        if self._size is None:
            self._size = self._find_size()
        return self._size

    def pixels(self, channels: int, shrink: int = 1, exact: bool = True) -> np.ndarray:
        """`decode(data, channels, shrink, exact)`, kept, and read-only since it is shared. Raises BadImage."""
        key = (channels, shrink, exact) if self.scalable else (channels, 1, True)
        if key not in self._kept:
            image = decode(self.data, *key, header=self._jpeg_header() if self.scalable else None).view()
            image.flags.writeable = False
            self._kept[key] = image
            if key[1] == 1:
                self._size = (image.shape[0], image.shape[1])
        return self._kept[key]

    def _find_size(self) -> tuple[int, int]:
        if isinstance(self.data, np.ndarray):
            h, w = self.data.shape[:2] if self.data.ndim > 1 else (0, 0)
            check_size(h, w)
            return h, w
        return self._jpeg_header().upright if self.scalable else upright_size(self.data)

    def _jpeg_header(self) -> jpeg.Header:
        if self._header is None:
            assert not isinstance(self.data, np.ndarray)
            with reasons():
                self._header = jpeg.read_header(self.data)
        return self._header
