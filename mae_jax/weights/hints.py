"""What a published file does not say of itself, said by whoever opens it."""

import dataclasses
from typing import Any, Literal

from mae_jax.core.errors import UserError
from mae_jax.weights.store import Weights

# Attention heads by width, of the published encoders (MAE's Table 8, ViT's Table 1, big_vision's variants).
ENCODER_HEADS = {
    192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1664: 16,
}  # fmt: skip
DECODER_HEADS = {512: 16}  # MAE's decoder, for all its encoders


@dataclasses.dataclass(frozen=True)
class Hints:
    """All are optional; a file that does say so is believed, and a hint that contradicts it is an error.

    Attributes:
      name: of the file in the catalogue (weights/catalog.py); "none": of no file there, whatever it is called.
      norm_pix: whether the decoder predicts normalised pixels.
      heads, decoder_heads: attention heads.
      image_size: for which the positions are made.
      norm_eps: of every layer norm; this one may contradict a file.
      pool: what a classifier's head reads, where names alone do not tell.
      mean, std: of the input's normalisation, per channel.
      encoder_only: leave a decoder or a head aside.
    """

    name: str = ""
    norm_pix: bool | None = None
    heads: int | None = None
    decoder_heads: int | None = None
    image_size: tuple[int, int] | None = None
    norm_eps: float | None = None
    pool: Literal["mean", "normed_mean", "class"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    encoder_only: bool = False

    def heads_of(self, width: int, part: Literal["", "decoder_"] = "") -> int:
        """The attention heads of a width that the file does not give."""
        given = self.decoder_heads if part else self.heads
        heads = given or (DECODER_HEADS if part else ENCODER_HEADS).get(width)
        flag = f"--{part.replace('_', '-')}heads"
        if heads is None:
            raise UserError(
                f"a file of tensors does not say how many attention heads there are, and no published model's "
                f"{'decoder' if part else 'encoder'} is {width} wide: give {flag} N."
            )
        if width % heads:
            raise UserError(f"{flag} {heads} does not divide the width {width} of these weights.")
        return heads


def agreed(what: str, said: object, hinted: object, where: str) -> None:
    """Raise UserError where a hint contradicts the file."""
    if said is not None and hinted is not None and said != hinted:
        raise UserError(f"{where} says {what}={said}, and you say {hinted}: leave yours out, or check the file.")


def told(weights: Weights, hints: Hints, where: str) -> Weights:
    """A native file's weights with what it did not know of itself: norm_pix, and an assumed mean and std.

    Raises:
      UserError: other hints, or ones that contradict it.
    """
    info, config = dict(weights.info), dict(weights.config)
    given = {key for key, value in dataclasses.asdict(hints).items() if value not in (None, "", False)}
    if hints.norm_pix is not None:
        agreed("norm_pix", info.get("norm_pix"), hints.norm_pix, where)
        info["norm_pix"] = hints.norm_pix
        config["method"] = config["method"] | {"norm_pix": hints.norm_pix}
    if hints.mean is not None and info.get("colours") == "assumed":
        colours: dict[str, Any] = {"mean": hints.mean, "std": hints.std}
        if "spectrogram_mean" in config["augment"]:
            colours = {f"spectrogram_{key}": x and x[0] for key, x in colours.items()}
        config["augment"] = config["augment"] | colours
        info["colours"] = "given"
        given -= {"mean", "std"}
    if other := given - {"norm_pix", "encoder_only"}:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in sorted(other))
        raise UserError(f"{where} is a file of mae_jax, which says itself what {flags} would say: leave that out.")
    return dataclasses.replace(weights, info=info, config=config)
