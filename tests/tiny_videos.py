"""Videos for tests: small files, folders and arrays whose frames show their own numbers."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

BITS = 6
SIDE = 8  # of the block that shows a bit, pixels


def numbered(count: int, h: int = 48, w: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 [count, h, w, 3]: a moving gradient on which frame t shows t in black and white blocks."""
    start = np.random.default_rng(seed).integers(0, 120)
    rows, columns = np.mgrid[:h, :w]
    clip = np.stack([(start + 2 * rows + columns + 3 * t) % 200 for t in range(count)])
    out = np.repeat(clip[..., None].astype(np.uint8), 3, axis=-1)
    for t, frame in enumerate(out):
        for bit in range(BITS):
            frame[:SIDE, bit * SIDE : (bit + 1) * SIDE] = 255 * (t >> bit & 1)
    return out


def numbers(frames: np.ndarray) -> list[int]:
    """The number that each frame shows."""
    middles = frames[:, SIDE // 2, SIDE // 2 : BITS * SIDE : SIDE].mean(-1) > 127
    return (middles @ (1 << np.arange(BITS))).tolist()


def write_video(path: Path, frames: np.ndarray, codec: str = "libx264", rotation: int = 0, **options: str) -> Path:
    """Encode at 25 frames per second, a key frame every 8 frames, up to 2 frames in a row that others do not need."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    faststart = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(os.fspath(path), "w", options=faststart) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 400_000
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 8, 2
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(folder: Path, frames: np.ndarray, name: str = "{:05d}.png") -> Path:
    """A folder of image files, one per frame, numbered from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(folder / name.format(t))
    return folder
