"""What of the augmentation cannot be, or does not fit the method or the data, said at the start of a run."""

from collections.abc import Mapping

import numpy as np

from mae_jax import modalities
from mae_jax.core.errors import UserError, nearest
from mae_jax.methods.base import Leaf, Method
from mae_jax.schema import Augment

PROBABILITIES = ("colour_jitter_p", "grayscale", "blur", "solarize", "erase")
COLOURS = ("colour_jitter", "grayscale", "blur", "solarize")
FAR = 10.0  # mean or deviation of normalised pixels that no sensible augment.mean and augment.std leave
IMAGES = (*COLOURS, "vertical_flip", "quarter_turns", "erase", "mixup", "cutmix", "randaugment")


def is_image(name: str) -> bool:
    """Whether a leaf is cropped, resized and normalised as an image."""
    return name == "image" or name.startswith("image_")


def check(method: Method, augment: Augment) -> None:
    """Raise UserError where the augmentation cannot be or does not fit the method's leaves."""
    _values(augment)
    spec = method.batch_spec
    for name, leaf in spec.items():
        if leaf.crop_of and leaf.crop_of not in spec:
            raise ValueError(f"leaf '{name}' is a crop of '{leaf.crop_of}', which is no leaf of '{method.name}'")
    images = {name: leaf for name, leaf in spec.items() if is_image(name)}
    kinds = {name: modality for name in spec if (modality := modalities.find(name, augment))}
    heeded = {key for modality in kinds.values() for key in modality.heeds}
    unread = [(key, "image") for key in IMAGES if _on(augment, key) and not images and key not in heeded]
    for kind in sorted(set(modalities.kinds()) - set(modalities.read_by(spec))):
        own = modalities.defaults([kind])
        unread += [(key, kind) for key, default in own.items() if augment.options.get(key, default) != default]
    for key, what in unread:
        value = augment.options[key] if key in augment.options else getattr(augment, key)
        raise UserError(
            f"augment.{key}={value!r} changes a leaf '{what}', but '{method.name}' reads {', '.join(spec)}: leave it "
            f"out."
        )
    if augment.where == "device" and not images:
        raise UserError(
            f"augment.where='device' crops images on the device, but '{method.name}' reads none: set 'host'."
        )
    _images(augment, images)
    for name, modality in kinds.items():
        modality.check(name, spec[name])
    normalised = {name: spec[name] for name, modality in kinds.items() if "mean" in modality.heeds}
    _normalisation(method, augment, images | normalised)


def _on(augment: Augment, key: str) -> bool:
    value = getattr(augment, key)
    return any(value) if isinstance(value, tuple) else bool(value)


def _values(a: Augment) -> None:
    """Numbers that no run could use."""
    chances = [(key, getattr(a, key)) for key in PROBABILITIES]
    for key, p in chances:
        if not 0 <= p <= 1:
            raise UserError(f"augment.{key}={getattr(a, key)}: a probability is at least 0 and at most 1.")
    for key, value in ((key, getattr(a, key)) for key in ("mixup", "cutmix", "noise")):
        if value < 0:
            raise UserError(f"augment.{key}={getattr(a, key)}: at least 0 expected, which switches it off.")
    if min(a.colour_jitter) < 0 or a.colour_jitter[3] > 0.5:
        raise UserError(
            f"augment.colour_jitter={a.colour_jitter}: brightness, contrast and saturation of at least 0 and a hue of "
            f"0..0.5 turns expected; 0 switches each off."
        )
    if a.one_of and a.grayscale + a.blur + a.solarize > 1 + 1e-6:
        raise UserError(
            f"augment.one_of shares one draw among grayscale={a.grayscale}, blur={a.blur} and solarize={a.solarize}, "
            f"which add up to more than 1: make them smaller, or set augment.one_of=False."
        )
    if not 0 < a.eval_crop <= 1:
        raise UserError(f"augment.eval_crop={a.eval_crop}: a share of the image in (0, 1] expected.")
    if min(a.canvas) < 1:
        raise UserError(f"augment.canvas={a.canvas}: (height, width) of at least 1 pixel expected.")


def _images(a: Augment, images: dict[str, Leaf]) -> None:
    """What does not fit the shapes of the images."""
    for name in a.colour_views:
        if name not in images:
            raise UserError(f"augment.colour_views names '{name}', which is no image here. {nearest(name, images)}")
        if images[name].crop_of:
            raise UserError(
                f"augment.colour_views names '{name}', which repeats '{images[name].crop_of}': name that one."
            )
    for name, leaf in images.items():
        height, width, channels = leaf.shape
        if a.quarter_turns and height != width:
            raise UserError(
                f"augment.quarter_turns turns squares, but the method reads '{name}' of {height} x {width}: make "
                f"method.image_size a square, or leave the turns out."
            )
        _, contrast, saturation, hue = a.colour_jitter
        needs = {"grayscale": a.grayscale, "colour_jitter": saturation or hue or (contrast and channels != 1)}
        for key, on in needs.items():
            if on and channels != 3 and coloured(a, name, leaf):
                raise UserError(
                    f"augment.{key}={getattr(a, key)} needs red, green and blue, but the method reads '{name}' of "
                    f"{channels} channel(s): set it to 0 (of the jitter, brightness fits any number of channels, and "
                    f"contrast one), or name other leaves in augment.colour_views."
                )
    if a.cutmix and len({leaf.shape[:2] for leaf in images.values()}) > 1:
        raise UserError(
            f"augment.cutmix={a.cutmix} cuts one box out of all images, but the method reads them at different sizes "
            f"({', '.join(images)}): set augment.cutmix=0; mixup fits."
        )
    if a.randaugment is not None and a.where == "device":
        raise UserError(
            f"augment.randaugment='{a.randaugment}' runs on the host, after the crop: set augment.where='host' with it."
        )


def coloured(a: Augment, name: str, leaf: Leaf) -> bool:
    """Whether the colours of an image leaf change."""
    return not a.colour_views or (leaf.crop_of or name) in a.colour_views


def _by_numbers(leaf: Leaf, augment: Augment) -> bool:
    """Whether augment.mean and augment.std normalise this image."""
    return not leaf.unit and augment.normalise != "batch"


def _normalisation(method: Method, augment: Augment, leaves: dict[str, Leaf]) -> None:
    for leaf in leaves.values():
        if not _by_numbers(leaf, augment):
            continue
        for key, value in (("mean", augment.mean), ("std", augment.std)):
            if len(value) != leaf.shape[-1]:
                raise UserError(
                    f"augment.{key} has {len(value)} number(s) but the method reads {leaf.shape[-1]} channel(s): give "
                    f"one per channel, as --config.augment.{key}='({', '.join(['0.5'] * leaf.shape[-1])},)'."
                )
            own = getattr(method, key, value)  # of a method that undoes the normalisation for its teacher
            if len(own) == len(value) and tuple(own) != tuple(value):
                raise UserError(
                    f"method.{key}={own} is not augment.{key}={value}: the method takes its input back to pixels by "
                    f"numbers of its own, so the two must be equal."
                )


def strange(batch: Mapping[str, np.ndarray], method: Method, augment: Augment) -> list[str]:
    """A sentence for each image leaf of a batch from the host whose floats are not what augment.mean and std expect.

    Integers are scaled by their type's maximum, floats are taken as they are: of 0 .. 255, or of counts, they would
    train to nothing in silence.
    """
    said = []
    for name, leaf in method.batch_spec.items():
        if not (is_image(name) and _by_numbers(leaf, augment) and name in batch and batch[name].dtype.kind == "f"):
            continue
        mean, std = (np.asarray(numbers, np.float32) for numbers in (augment.mean, augment.std))
        x = (batch[name][:32] - mean) / std
        if max(abs(x.mean()), x.std()) > FAR:
            said.append(
                f"the pixels of '{name}' are floats, which are taken as they are. After augment.mean and augment.std "
                f"their mean is {x.mean():.3g} and their deviation {x.std():.3g}, where 0 and 1 are expected: scale "
                f"them to [0, 1], or set both keys to what `mae_jax data --config ...` finds."
            )
    return said
