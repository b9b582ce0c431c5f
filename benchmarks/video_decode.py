"""Which library decodes clips: exactly by frame number first, then how fast.

    python benchmarks/video_decode.py                                # everything that is installed
    python benchmarks/video_decode.py --json out.json --clips 200    # pip install decord torchcodec torch to have all

Makes videos of 300 frames that show their own numbers, H.264 (x264's defaults, a key frame every 250 frames, which is
what FFmpeg writes; and one every 12) in MP4 and MPEG-4 in AVI, 320 x 240 and 340 x 256, and lets every library read the
same random clips of 16 frames at strides 4 and 2: open the file, get the frames as RGB, close it, as a data set does. A
clip is right when every frame shows the number that was asked for. Times are CPU time on one core with one decoding
thread each, contestants in turn. "others" is the share of the core that another Python thread gets meanwhile: half or
more where the library lets go of the interpreter's lock, little where it does not.

Prints Markdown, a row per library and file.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np

from mae_jax.data.video_file import VideoFile

FRAMES = 300
LENGTH = 16
BITS, SIDE = 9, 32  # the number's blocks
FILES = {  # (codec, suffix, key frame every, h, w)
    "h264 320x240": ("libx264", ".mp4", 250, 240, 320),
    "h264 340x256": ("libx264", ".mp4", 250, 256, 340),
    "h264 340x256, keys every 12": ("libx264", ".mp4", 12, 256, 340),
    "mpeg4 320x240 avi": ("mpeg4", ".avi", 12, 240, 320),
    "mpeg4 340x256 avi": ("mpeg4", ".avi", 12, 256, 340),
}

Reader = Callable[[str, list[int]], np.ndarray]


def picture(t: int, photo: np.ndarray, h: int, w: int) -> np.ndarray:
    """Frame t: a window that moves over a photograph, with t in blocks."""
    top, left = t % (photo.shape[0] - h), t % (photo.shape[1] - w)
    frame = photo[top : top + h, left : left + w].copy()
    for bit in range(BITS):
        frame[:SIDE, bit * SIDE : (bit + 1) * SIDE] = 255 * (t >> bit & 1)
    return frame


def numbers(frames: np.ndarray) -> list[int]:
    """What the frames show."""
    blocks = frames[:, SIDE // 4 : -SIDE // 4, :][:, : SIDE // 2]
    return [sum(int(f[:, b * SIDE + 8 : (b + 1) * SIDE - 8].mean() > 127) << b for b in range(BITS)) for f in blocks]


def write(path: Path, codec: str, keys: int, h: int, w: int) -> None:
    from sklearn.datasets import load_sample_images

    photo = load_sample_images().images[0]
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": str(keys), "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = h, w, "yuv420p"
        if codec == "mpeg4":
            stream.bit_rate = 600_000
        for t in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(t, photo, h, w), format="rgb24")))
        container.mux(stream.encode())


def ours(path: str, wanted: list[int]) -> np.ndarray:
    return VideoFile(path).frames(wanted)


def opencv(path: str, wanted: list[int]) -> np.ndarray:
    capture, out = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), []
    capture.set(cv2.CAP_PROP_POS_FRAMES, wanted[0])
    for i in range(wanted[0], wanted[-1] + 1):
        if not capture.grab():
            break
        if i in wanted:
            out.append(capture.retrieve()[1][..., ::-1])
    capture.release()
    return np.stack(out)


def readers() -> dict[str, tuple[str, Reader]]:
    """{library: (version, reader)} of what is installed."""
    out: dict[str, tuple[str, Reader]] = {
        "PyAV (VideoFile)": (av.__version__, ours),
        "OpenCV": (cv2.__version__, opencv),
    }
    try:
        import decord

        def by_decord(path: str, wanted: list[int]) -> np.ndarray:
            return decord.VideoReader(path, num_threads=1).get_batch(wanted).asnumpy()

        out["decord"] = decord.__version__, by_decord
    except ImportError as error:
        print(f"left out: decord ({error})", file=sys.stderr)
    try:
        import torch
        import torchcodec
        from torchcodec.decoders import VideoDecoder

        torch.set_num_threads(1)

        def by_torchcodec(path: str, wanted: list[int], mode: str) -> np.ndarray:
            decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=mode)
            return decoder.get_frames_at(wanted).data.numpy()

        for mode in ("exact", "approximate"):
            out[f"torchcodec, {mode}"] = torchcodec.__version__, lambda p, i, m=mode: by_torchcodec(p, i, m)
    except (ImportError, RuntimeError) as error:
        print(f"left out: torchcodec ({str(error).splitlines()[0]})", file=sys.stderr)
    return out


def share_of_others(read: Reader, path: str, clips: list[list[int]]) -> float:
    """How much of the core a Python loop gets while another thread decodes."""
    done = threading.Event()

    def decode() -> None:
        for clip in clips:
            read(path, clip)
        done.set()

    thread, own, whole = threading.Thread(target=decode), time.thread_time(), time.process_time()
    thread.start()
    while not done.is_set():
        sum(range(100))
    own, whole = time.thread_time() - own, time.process_time() - whole
    thread.join()
    return own / whole


def measure(path: str, stride: int, count: int, rounds: int, seed: int = 0) -> dict[str, dict]:
    """Per library: how many of `count` clips were right, and ms of CPU time per clip."""
    starts = np.random.default_rng(seed).integers(0, FRAMES - stride * (LENGTH - 1), count)
    clips = [[int(s) + stride * i for i in range(LENGTH)] for s in starts]
    found = {}
    for name, (version, read) in readers().items():
        right, errors = 0, set()
        for clip in clips:
            try:
                right += numbers(read(path, clip)) == clip
            except Exception as error:  # a library's own errors are of any kind
                errors.add(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}")
        found[name] = {"version": version, "right": right, "clips": count, "errors": sorted(errors)}
    usable = [name for name in found if not found[name]["errors"]]
    times: dict[str, list[float]] = {name: [] for name in usable}
    part = clips[: max(1, count // 4)]
    for turn in range(rounds):
        for name in usable[turn % len(usable) :] + usable[: turn % len(usable)]:  # nobody always follows the same one
            begin = time.process_time()
            for clip in part:
                readers_of[name](path, clip)
            times[name].append((time.process_time() - begin) / len(part) * 1e3)
    for name in usable:
        others = share_of_others(readers_of[name], path, part)
        found[name] |= {"ms": statistics.median(times[name]), "others": round(others, 2)}
    return found


readers_of: dict[str, Reader] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40, help="random clips per file and stride (default: 40)")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing (default: 5)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    readers_of.update({name: read for name, (_, read) in readers().items()})
    out = []
    print("| file | stride | library | right | ms per clip | others |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for title, (codec, suffix, *shape) in FILES.items():
            path = Path(folder) / f"{len(out)}{suffix}"
            write(path, codec, *shape)
            for stride in (4, 2):
                for name, row in measure(str(path), stride, args.clips, args.rounds).items():
                    out.append({"file": title, "bytes": path.stat().st_size, "stride": stride, "library": name, **row})
                    figures = f"{row['ms']:.1f} | {row['others']:.0%}" if "ms" in row else f"{row['errors'][0]} | "
                    right = f"{row['right']}/{row['clips']}"
                    print(f"| {title} | {stride} | {name} {row['version']} | {right} | {figures} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
