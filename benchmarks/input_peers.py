"""Other people's input paths for `input.py --versus`: the same files, crop, flip, size, as their users write them."""

import math
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvision_transforms(path: str | None):
    """torchvision.transforms, installed or out of an unpacked wheel at `path` (its pure Python part), or None.

    There is no torchvision wheel for a CPU-only torch in every index, and the transforms on PIL images need no
    compiled part: `pip download torchvision --no-deps`, unzip it, and give the folder.
    """
    if path:
        root = Path(path).expanduser() / "torchvision"
        if not (root / "transforms").is_dir():
            raise SystemExit(f"--torchvision {path}: no torchvision/transforms is there; give the unzipped wheel.")
        package = types.ModuleType("torchvision")
        package.__path__ = [str(root)]
        sys.modules["torchvision"] = package
        sys.modules["torchvision.extension"] = types.ModuleType("torchvision.extension")
    try:
        from torchvision import transforms
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return None
    return transforms


def pil_transform(size: int, torchvision: str | None) -> tuple[str, Callable]:
    """(what it is, path -> float tensor [3, size, size]): PIL, random-resized crop (bicubic), flip, normalise."""
    import torch
    from PIL import Image

    t = torchvision_transforms(torchvision)
    if t is not None:
        name = "torchvision on PIL"
        chain = t.Compose([
            t.RandomResizedCrop(size, scale=SCALE, ratio=RATIO, interpolation=t.InterpolationMode.BICUBIC),
            t.RandomHorizontalFlip(), t.ToTensor(), t.Normalize(MEAN, STD),
        ])  # fmt: skip
    else:
        name = "PIL and torch, torchvision's transforms restated"
        normalise = _normalise()

        def chain(picture):
            i, j, h, w = _box(picture.height, picture.width)
            picture = picture.crop((j, i, j + w, i + h)).resize((size, size), Image.Resampling.BICUBIC)
            if torch.rand(1) < 0.5:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
            return normalise(pixels.to(torch.float32).div(255))

    def load(path: str):
        with open(path, "rb") as file, Image.open(file) as picture:
            return chain(picture.convert("RGB"))

    return name, load


def opencv_transform(size: int) -> tuple[str, Callable]:
    """The same through opencv, whose bicubic does not antialias."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    normalise = _normalise()

    def load(path: str):
        image = cv2.cvtColor(cv2.imread(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        i, j, h, w = _box(*image.shape[:2])
        image = cv2.resize(image[i : i + h, j : j + w], (size, size), interpolation=cv2.INTER_CUBIC)
        if torch.rand(1) < 0.5:
            image = cv2.flip(image, 1)
        return normalise(torch.from_numpy(image).permute(2, 0, 1).contiguous().to(torch.float32).div(255))

    return "opencv and torch (no antialiasing)", load


def torch_batches(files: list[str], load: Callable, batch: int) -> Iterator[int]:
    """Endless shuffled batches of a DataLoader without workers; yields their sizes."""
    from torch.utils.data import DataLoader, Dataset

    class Files(Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, i: int):
            return load(files[i]), 0

    loader = DataLoader(Files(), batch_size=batch, shuffle=True, num_workers=0, drop_last=True)
    while True:
        for images, _ in loader:
            yield len(images)


def tensorflow_batches(files: list[str], size: int, batch: int) -> Iterator[int]:
    """tf.data on one thread: decode_and_crop_jpeg (by default the fast DCT), bicubic with antialiasing, flip."""
    import tensorflow as tf

    def load(path):
        data = tf.io.read_file(path)
        shape = tf.image.extract_jpeg_shape(data)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            shape, tf.zeros([0, 0, 4], tf.float32), area_range=SCALE, aspect_ratio_range=RATIO, max_attempts=10,
            min_object_covered=0, use_image_if_no_bounding_boxes=True,
        )  # fmt: skip
        window = tf.concat([begin[:2], extent[:2]], 0)
        image = tf.image.decode_and_crop_jpeg(data, window, channels=3)
        image = tf.image.resize(image, (size, size), "bicubic", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(tf.image.random_flip_left_right(image)), 0, 255), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False  # else it computes ahead while others are measured
    options.experimental_optimization.inject_prefetch = False
    data = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
    for images in data.map(load).batch(batch, drop_remainder=True).with_options(options):
        yield len(images)


def _box(height: int, width: int) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop.get_params, with torch's draws: (top, left, height, width)."""
    import torch

    log_ratio = torch.log(torch.tensor(RATIO))
    for _ in range(10):
        area = height * width * torch.empty(1).uniform_(*SCALE).item()
        aspect = torch.exp(torch.empty(1).uniform_(log_ratio[0], log_ratio[1])).item()
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = torch.randint(0, height - h + 1, size=(1,)).item()
            left = torch.randint(0, width - w + 1, size=(1,)).item()
            return int(top), int(left), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def _normalise() -> Callable:
    import torch

    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return lambda tensor: tensor.sub_(mean).div_(std)
