"""What happens to a batch between the source and the loss, for whatever leaves a method reads."""

from collections.abc import Callable, Mapping

from mae_jax.augment.normalise import normalise, within_batch
from mae_jax.config import Augment
from mae_jax.core.errors import UserError, nearest
from mae_jax.core.keys import Context
from mae_jax.core.types import Batch
from mae_jax.data.transforms import HostAugment
from mae_jax.data.views import Raw, View, Views
from mae_jax.methods.base import Leaf, Method

# Augmentations that augment.extra may name. None yet: the recipes that need some say which.
EXTRA: Mapping[str, Callable] = {}


def is_image(name: str) -> bool:
    """Whether a leaf is cropped, resized and normalised as an image."""
    return name == "image" or name.startswith("image_")


def check(method: Method, augment: Augment) -> None:
    """Raise UserError where the augmentation is unknown or does not fit the method's images."""
    for name in augment.extra:
        if name not in EXTRA:
            raise UserError(
                f"augment.extra names '{name}', an augmentation that does not exist here yet. {nearest(name, EXTRA)} "
                f"To train without it: --config.augment.extra='()'."
            )
    for name, leaf in method.batch_spec.items():
        if leaf.crop_of and leaf.crop_of not in method.batch_spec:
            raise ValueError(f"leaf '{name}' is a crop of '{leaf.crop_of}', which is no leaf of '{method.name}'")
        if not is_image(name) or leaf.unit or augment.normalise == "batch":
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


def views(spec: Mapping[str, Leaf], augment: Augment, train: bool) -> Views:
    """The host's share: one entry per leaf. Every image draws its own crop, but where it is a `crop_of` another."""
    own = [name for name, leaf in spec.items() if is_image(name) and not leaf.crop_of]
    leaves: dict[str, View | Raw] = {}
    for name, leaf in spec.items():
        if is_image(name):
            leaves[name] = View(_host(leaf, augment, train), own.index(leaf.crop_of or name))
        else:
            leaves[name] = Raw(leaf.shape, leaf.dtype)
    return Views(leaves)


def _host(leaf: Leaf, a: Augment, train: bool) -> HostAugment:
    height, width, channels = leaf.shape
    return HostAugment(
        size=(height, width), channels=channels, crop_scale=a.crop_scale if train else None, crop_ratio=a.crop_ratio,
        flip=a.flip and train, pad=a.pad if train else 0, resample=leaf.resample,
    )  # fmt: skip


def on_device(spec: Mapping[str, Leaf], augment: Augment, batch: Batch, ctx: Context | None) -> Batch:
    """The device's share: integers -> normalised float32, noise. Without a context nothing random happens."""
    out = dict(batch)
    for name, leaf in spec.items():
        if not is_image(name) or name not in batch:
            continue
        if leaf.unit:
            out[name] = normalise(batch[name], (0.0,), (1.0,))
        elif augment.normalise == "batch":
            out[name] = within_batch(batch[name])
        else:
            out[name] = normalise(batch[name], augment.mean, augment.std)
        if augment.noise and ctx is not None and not leaf.unit:
            out[name] = out[name] + augment.noise * ctx.normal(f"augment/noise/{name}", out[name].shape)
    return out
