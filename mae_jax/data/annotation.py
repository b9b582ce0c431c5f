"""The classes of an image's pixels: a grey or palette file, decoded and checked when asked and once only."""

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.limits import BadImage, open_image, reasons

IGNORE = 255  # in what `labels` gives: a pixel that has no class
MAX_CLASSES = IGNORE
GREY_MODES = ("1", "L", "P", "I", "I;16", "I;16B")


class Annotation:
    """Encoded bytes or an array [h, w] of whole numbers.

    Args:
        where: what names it in messages.
        classes: number of classes.
        ignore: the value of pixels without a class.
        reduce_zero: 0 has no class either, and class c is stored as c + 1 (ADE20K; mmseg's reduce_zero_label).
    """

    __slots__ = ("_labels", "classes", "data", "ignore", "reduce_zero", "where")

    def __init__(
        self, data: bytes | np.ndarray, where: str, classes: int, ignore: int = IGNORE, reduce_zero: bool = False
    ):
        self.data, self.where, self.classes = data, where, classes
        self.ignore, self.reduce_zero = ignore, reduce_zero
        self._labels: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """uint8 [h, w]: a class, or IGNORE.

        Raises: UserError for a value that is no class, or for colours; BadImage for what cannot be decoded.
        """
        if self._labels is None:
            self._labels = self._read()
            self._labels.flags.writeable = False  # shared by all views of the record
        return self._labels

    def _read(self) -> np.ndarray:
        stored = self.data if isinstance(self.data, np.ndarray) else self._decoded(self.data)
        if stored.ndim != 2 or stored.dtype.kind not in "biu":
            raise BadImage(f"its annotation has shape {stored.shape} and dtype {stored.dtype}: numbers [h, w] expected")
        values = stored.astype(np.int64)
        nothing = values == self.ignore
        if self.reduce_zero:
            nothing |= values == 0
            values = values - 1
        wrong = ~nothing & ((values < 0) | (values >= self.classes))
        if wrong.any():
            value = int(stored[wrong][0])
            first, last = int(self.reduce_zero), self.classes - 1 + int(self.reduce_zero)
            raise UserError(
                f"{self.where} holds the value {value} ({int(wrong.sum())} pixels have such values), but with "
                f"{self.classes} classes{' and data.reduce_zero_label' if self.reduce_zero else ''} values "
                f"{first}..{last} are classes and {'0 and ' if self.reduce_zero else ''}{self.ignore} is ignored. Set "
                f"data.classes, data.reduce_zero_label or data.ignore to what the files hold."
            )
        return np.where(nothing, IGNORE, values).astype(np.uint8)

    def _decoded(self, data: bytes) -> np.ndarray:
        with reasons(), open_image(data) as picture:
            mode = picture.mode
            if mode in GREY_MODES:
                return np.array(picture).astype(np.int64)  # of a palette file the numbers, not the colours
        raise UserError(
            f"{self.where} holds colours (mode {mode}); an annotation holds the number of a class per pixel, in a grey "
            f"or palette file. Convert colours to numbers first."
        )
