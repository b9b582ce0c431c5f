"""Clips as pictures: frames side by side."""

from jaxtyping import Array, Shaped


def film_strip(video: Shaped[Array, "b t h w c"], frames: int = 8) -> Shaped[Array, "b h fw c"]:
    """At most `frames` equally distant frames, from the first on, from left to right."""
    every = -(-video.shape[1] // frames)
    b, t, h, w, c = (shown := video[:, ::every]).shape
    return shown.transpose(0, 2, 1, 3, 4).reshape(b, h, t * w, c)
