"""What happens to a batch between the source and the loss, for whatever leaves a method reads.

Two paths. Host: the pictures are cropped, resized and mirrored before they travel. Device (augment.where): they travel
on canvases, with ".extent" leaves beside them, and the same happens inside the step. Everything after that (turns,
colours, normalisation, noise, erasing, mixing) is the device's on both. docs/augment.md
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax import modalities
from mae_jax.augment import colour, crop, mixup
from mae_jax.augment.erase import erase
from mae_jax.augment.geometry import reverse, turn, upto
from mae_jax.augment.normalise import normalise, to_unit, within_batch
from mae_jax.core.keys import Context
from mae_jax.core.types import Batch
from mae_jax.data.canvas import Canvas
from mae_jax.data.randaugment import mean_colour
from mae_jax.data.transforms import HostAugment
from mae_jax.data.views import HostLeaf, Raw, View, Views
from mae_jax.methods.base import Leaf
from mae_jax.schema import Augment
from mae_jax.train.input_checks import check, coloured, is_image, strange

__all__ = [
    "batch_leaves", "check", "colours", "host_leaves", "is_image", "mixes", "on_device", "strange", "together", "views",
    "vote_views",
]  # fmt: skip

EXTENT = ".extent"
Spec = Mapping[str, Leaf]


def canvases(spec: Spec) -> dict[str, str]:
    """{image leaf: the leaf whose canvas it is cropped from}: the first with as many channels, since all images of a
    record are views of one picture."""
    firsts: dict[int, str] = {}
    return {name: firsts.setdefault(leaf.shape[-1], name) for name, leaf in spec.items() if is_image(name)}


def batch_leaves(spec: Spec, augment: Augment) -> dict[str, Leaf]:
    """The leaves that travel to the devices in training: the spec's, what a modality sends in its place, and on the
    device path canvases and extents in the place of images (evaluation's images are always the spec's)."""
    shared = canvases(spec) if augment.where == "device" else {}
    out: dict[str, Leaf] = {}
    for name, leaf in spec.items():
        if name not in shared:
            modality = modalities.find(name, augment)
            out |= {name: leaf} if modality is None else modality.travels(name, leaf)
        elif shared[name] == name:
            out[name] = Leaf((*augment.canvas, leaf.shape[-1]), "uint8", batched=leaf.batched)
            out[name + EXTENT] = Leaf((4,), "int32", batched=leaf.batched)
    return out


def views(spec: Spec, augment: Augment, train: bool, view: int = 0) -> Views:
    """The host's share; in evaluation of one of `vote_views` of each record."""
    return Views(host_leaves(spec, augment, train, view))


def vote_views(spec: Spec, augment: Augment) -> int:
    """How many views of a record an evaluation of classifiers votes over."""
    kinds = {name: modality for name in spec if (modality := modalities.find(name, augment))}
    return max((modality.views(name, spec[name]) for name, modality in kinds.items()), default=1)


def host_leaves(spec: Spec, augment: Augment, train: bool, view: int = 0) -> dict[str, HostLeaf]:
    """One entry per leaf that travels. Every image draws its own crop, but where it is a `crop_of` another."""
    own = [name for name, leaf in spec.items() if not leaf.crop_of]
    own.sort(key=lambda name: not is_image(name))  # images have the first streams
    shared = canvases(spec) if train and augment.where == "device" else {}
    leaves: dict[str, HostLeaf] = {}
    for name, leaf in spec.items():
        if name == "label":  # comes with every batch (data/plan.py)
            continue
        if name in shared:
            if shared[name] == name:
                leaves[name] = Canvas(augment.canvas, leaf.shape[-1])
        elif is_image(name):
            leaves[name] = View(_host(leaf, augment, train), own.index(leaf.crop_of or name))
        elif modality := modalities.find(name, augment):
            leaves[name] = modality.host(name, leaf, train, own.index(name), view)
        else:
            leaves[name] = Raw(leaf.shape, leaf.dtype)
    return leaves


def _host(leaf: Leaf, a: Augment, train: bool) -> HostAugment:
    height, width, channels = leaf.shape
    return HostAugment(
        size=(height, width), channels=channels, crop_scale=a.crop_scale if train else None, crop_ratio=a.crop_ratio,
        flip=a.flip and train, pad=a.pad if train else 0, resample=_interpolation(leaf, a), crop_fraction=a.eval_crop,
        **_policy(a) if train and a.randaugment is not None else {},
    )  # fmt: skip


def _policy(a: Augment) -> dict[str, Any]:
    """RandAugment fills what it moves into view with the mean colour."""
    return {"randaugment": a.randaugment, "fill": mean_colour(a.mean)}


def _size(leaf: Leaf) -> tuple[int, int]:
    return leaf.shape[-3], leaf.shape[-2]


def _interpolation(leaf: Leaf, a: Augment) -> str:
    """The method's where it asks for another than the usual one, else the config's."""
    return leaf.resample if leaf.resample != Leaf.resample else a.interpolation


def on_device(spec: Spec, augment: Augment, batch: Batch, ctx: Context | None) -> Batch:
    """The device's share: canvases or integers -> the arrays that the loss reads.

    Without a context nothing random happens (canvases give their centre crops). Where images are mixed and the spec has
    a "label" [b], "label_partner" [b] and "label_share" [b] come with them: the other image's label, and the share of
    the own one (mixup.soft_targets).
    """
    out = {name: array for name, array in batch.items() if "." not in name}
    images = {name: leaf for name, leaf in spec.items() if is_image(name)}
    for name in images:
        if not images[name].crop_of:
            group = {n: leaf for n, leaf in images.items() if name in (n, leaf.crop_of)}
            out |= _view(name, group, augment, _pictures(name, group, spec, augment, batch, ctx), ctx)
    mixed = dict(images)
    for name, leaf in spec.items():
        modality = modalities.find(name, augment)
        if modality is not None and modality.arrived(name, leaf, batch):
            out[name] = modality.device(name, leaf, batch, ctx)
            mixed |= {name: leaf} if "mixup" in modality.heeds else {}
    if ctx is None or not mixes(augment):
        return out
    seen = [name for name in mixed if name in out]
    size = _size(mixed[seen[0]])
    drawn = mixup.draw(ctx.key("augment/mix"), size, mixup_alpha=augment.mixup, cutmix_alpha=augment.cutmix)
    if "label" in spec:
        labels = out["label"]
        out |= {"label_partner": labels[::-1], "label_share": jnp.broadcast_to(drawn.lam, labels.shape[:1])}
    return out | {name: _mixed(out[name], drawn, bool(augment.cutmix)) for name in seen}


def _mixed(x: Float[Array, "b *t h w c"], drawn: mixup.Draw, cut: bool) -> Float[Array, "b *t h w c"]:
    """Images, or the frames of videos, mixed alike."""
    frames = x.reshape(len(x), -1, *x.shape[-3:])
    return jax.vmap(lambda image: mixup.mix_images(image, drawn, cut), 1, 1)(frames).reshape(x.shape)


def colours(spec: Spec, augment: Augment) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) that bring a picture of the method's input back to [0, 1]; empty where it lies there."""
    if "image" in spec:
        return (augment.mean, augment.std) if augment.normalise == "fixed" else ((), ())
    kinds = ((leaf, modalities.find(name, augment)) for name, leaf in spec.items())
    return next((modality.colours(leaf) for leaf, modality in kinds if modality), ((), ()))


def together(spec: Spec, augment: Augment) -> bool:
    """Whether the device's share needs the whole batch: to mix images, to normalise by it, or what a modality mixes."""
    kinds = [modalities.find(name, augment) for name in spec]
    return mixes(augment) or augment.normalise == "batch" or any(modality.together for modality in kinds if modality)


def mixes(augment: Augment) -> bool:
    """Whether images of a batch are mixed with each other, so that no part of it can be augmented by itself."""
    return bool(augment.mixup or augment.cutmix)


def _pictures(name: str, group: Spec, spec: Spec, a: Augment, batch: Batch, ctx: Context | None) -> dict[str, Array]:
    """The images of a view as the host path would have sent them: cut from their canvases where these came."""
    shared = canvases(spec)
    if shared[name] + EXTENT not in batch:
        return {n: batch[n] for n in group if n in batch}
    window = crop.Window(a.crop_scale, a.crop_ratio, a.pad)
    draws = crop.draw(ctx, name, len(batch[shared[name]]), window, a.flip)
    return {
        n: crop.crop(
            batch[shared[n]], batch[shared[n] + EXTENT], _size(leaf), window, draws, _interpolation(leaf, a)
        )
        for n, leaf in group.items()
    }  # fmt: skip


def _view(name: str, group: Spec, a: Augment, pictures: Mapping[str, Array], ctx: Context | None) -> dict[str, Array]:
    """The images of one view (that share their draws), turned, coloured, normalised, with noise."""
    if not pictures:
        return {}
    b = len(next(iter(pictures.values())))
    upside_down = ctx.uniform(f"augment/vertical_flip/{name}", (b,)) < 0.5 if ctx and a.vertical_flip else None
    quarters = upto(ctx.uniform(f"augment/quarter_turns/{name}", (b,)), 4) if ctx and a.quarter_turns else None
    colours = colour.Colour(a.colour_jitter, a.colour_jitter_p, a.grayscale, a.blur, a.solarize, a.one_of)
    drawn = colour.draw(ctx, name, b, colours) if ctx and coloured(a, name, group[name]) else colour.Draws()
    out = {}
    for n, x in pictures.items():
        if upside_down is not None:
            x = reverse(x, 1, upside_down)
        if quarters is not None:
            x = turn(x, (1, 2), quarters)
        if any(d is not None for d in drawn):
            x = colour.apply(to_unit(x), drawn, colours)
        x = _normalised(x, group[n], a)
        if ctx and not group[n].unit:
            if a.noise:
                x = x + a.noise * ctx.normal(f"augment/noise/{n}", x.shape)
            if a.erase:
                x = erase(x, ctx, n, a.erase)
        out[n] = x
    return out


def _normalised(x: Array, leaf: Leaf, a: Augment) -> Float[Array, "b h w c"]:
    if leaf.unit:
        return normalise(x, (0.0,), (1.0,))
    return within_batch(x) if a.normalise == "batch" else normalise(x, a.mean, a.std)
