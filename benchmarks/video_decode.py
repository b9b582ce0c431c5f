"""Which library decodes clips: exactly by frame number first, then how fast.

    python benchmarks/video_decode.py                                # everything that is installed
    python benchmarks/video_decode.py --json out.json --clips 200    # pip install decord torchcodec torch to have all

Makes videos of 300 frames that show their own numbers, H.264 (x264's defaults, a key frame every 250 frames, which is
what FFmpeg writes; and one every 12) in MP4 and MPEG-4 in AVI, 320 x 240 and 340 x 256, and lets every library read the
same random clips of 16 frames at strides 4 and 2: open the file, get the frames as RGB, close it, as a data set does. A
clip is right when every frame shows the number that was asked for. Times are CPU time on one core with one decoding
thread each, contestants in turn. "others" is the share of the core that another Python thread gets meanwhile: half or
more where the library lets go of the interpreter's lock, little where it does not.

Then clips at stride 4 out of files that are harder to seek in; only whether they are right counts. Prints Markdown.
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

HARD = {  # what only has to be exact: (codec, suffix, options)
    "h264 mkv": ("libx264", ".mkv", {}),
    "h264 avi": ("libx264", ".avi", {}),
    "h264 mpeg-ts": ("libx264", ".ts", {"g": "12"}),
    "h264 mp4, open groups": ("libx264", ".mp4", {"g": "12", "x264-params": "open-gop=1:b-adapt=0"}),
    "mpeg4 mp4, B frames": ("mpeg4", ".mp4", {"bf": "2"}),
    "mpeg4 avi, B frames": ("mpeg4", ".avi", {"bf": "2"}),
    "vp9 webm": ("libvpx-vp9", ".webm", {"deadline": "realtime", "cpu-used": "8"}),
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


def write(path: Path, codec: str, options: dict[str, str], h: int, w: int) -> None:
    from sklearn.datasets import load_sample_images

    photo = load_sample_images().images[0]
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"threads": "1"} | options)
        stream.height, stream.width, stream.pix_fmt = h, w, "yuv420p"
        if codec != "libx264":
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


def random_clips(stride: int, count: int) -> list[list[int]]:
    starts = np.random.default_rng(0).integers(0, FRAMES - stride * (LENGTH - 1), count)
    return [[int(s) + stride * i for i in range(LENGTH)] for s in starts]


def right(read: Reader, path: str, clips: list[list[int]]) -> int:
    """Of how many clips every frame is the one that was asked for."""
    found = 0
    for clip in clips:
        try:
            found += numbers(read(path, clip)) == clip
        except Exception as error:  # a library's own errors are of any kind
            print(f"{path}: {str(error).strip().splitlines()[0]}", file=sys.stderr)
    return found


def measure(
    libraries: dict[str, tuple[str, Reader]], path: str, stride: int, count: int, rounds: int
) -> dict[str, dict]:
    """Per library: how many of `count` clips were right, and ms of CPU time per clip."""
    clips = random_clips(stride, count)
    found: dict[str, dict] = {
        name: {"version": version, "right": right(read, path, clips), "clips": count}
        for name, (version, read) in libraries.items()
    }
    usable = list(found)
    times: dict[str, list[float]] = {name: [] for name in usable}
    part = clips[: max(1, count // 4)]
    for turn in range(rounds):
        for name in usable[turn % len(usable) :] + usable[: turn % len(usable)]:  # nobody always follows the same one
            begin = time.process_time()
            for clip in part:
                libraries[name][1](path, clip)
            times[name].append((time.process_time() - begin) / len(part) * 1e3)
    for name in usable:
        others = share_of_others(libraries[name][1], path, part)
        found[name] |= {"ms": statistics.median(times[name]), "others": round(others, 2)}
    return found


def working(path: str) -> dict[str, tuple[str, Reader]]:
    """The readers that run at all here."""
    out = {}
    for name, (version, read) in readers().items():
        try:
            read(path, [0])
            out[name] = version, read
        except Exception as error:  # a library's own errors are of any kind
            print(f"left out: {name} {version} ({str(error).strip().splitlines()[0]})", file=sys.stderr)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40, help="random clips per file and stride (default: 40)")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing (default: 5)")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    out, libraries = [], None
    print("| file | stride | library | right | ms per clip | others |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for title, (codec, suffix, keys, h, w) in FILES.items():
            path = Path(folder) / f"{len(out)}{suffix}"
            write(path, codec, {"g": str(keys)}, h, w)
            libraries = working(str(path)) if libraries is None else libraries
            for stride in (4, 2):
                for name, row in measure(libraries, str(path), stride, args.clips, args.rounds).items():
                    out.append({"file": title, "bytes": path.stat().st_size, "stride": stride, "library": name, **row})
                    figures = f"{row['right']}/{row['clips']} | {row['ms']:.1f} | {row['others']:.0%}"
                    print(f"| {title} | {stride} | {name} {row['version']} | {figures} |", flush=True)
        assert libraries is not None
        print(f"\n| right of {args.clips} | {' | '.join(libraries)} |\n|{'---|' * (1 + len(libraries))}")
        for title, (codec, suffix, options) in HARD.items():
            path = Path(folder) / f"hard{suffix}"
            write(path, codec, options, 240, 320)
            found = {n: right(read, str(path), random_clips(4, args.clips)) for n, (_, read) in libraries.items()}
            out.append({"file": title, "clips": args.clips, "right": found})
            print(f"| {title} | {' | '.join(map(str, found.values()))} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
