"""Published files by name: where each is found, how it is recognised, its licence, and what it holds.

Nothing here is downloaded. What is not known is "" or None and said to be unknown: facebookresearch/mae gives six hex
digits of an MD5 for the encoder-only and the fine-tuned files, and none for the others.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

from mae_jax.core.errors import UserError, nearest

Kind = Literal["encoder", "pretraining", "classifier"]
META = "https://dl.fbaipublicfiles.com/mae"
CC_BY_NC = "CC-BY-NC 4.0 (no commercial use)"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A released file, or a folder of the Hugging Face hub.

    Attributes:
      name: ours. file: its file's (or folder's) name. url: where it is published.
      licence: as its publisher states it; "unknown: ..." where we have not seen a statement.
      kind: "encoder", "pretraining" or "classifier". norm_pix: what the decoder predicts; None: it has none, or the
        config beside the file says.
      dim, depth, patch: of the encoder, at 224 pixels.
      md5: the first hex digits, as far as published. note: what else to know.
    """

    name: str
    file: str
    url: str
    licence: str
    kind: Kind
    norm_pix: bool | None
    dim: int
    depth: int
    patch: int
    md5: str = ""
    note: str = ""


SIZES = {"base": ("b16", 768, 12, 16), "large": ("l16", 1024, 24, 16), "huge": ("h14", 1280, 32, 14)}
PRETRAIN_MD5 = {"base": "8cad7c", "large": "b8b06e", "huge": "9bdbb0"}
FINETUNED_MD5 = {"base": "1b25e9", "large": "51f550", "huge": "2541f2"}
TOP1 = {"base": "83.664", "large": "85.952", "huge": "86.928"}


def _entries() -> list[Entry]:
    found = []
    for size, (short, dim, depth, patch) in SIZES.items():
        shape: dict[str, Any] = dict(dim=dim, depth=depth, patch=patch)
        ours = f"mae_vit_{short}"

        def official(
            name: str, folder: str, file: str, kind: Kind, norm_pix: bool | None = None, md5: str = "", note: str = "",
            shape: dict[str, Any] = shape,
        ) -> Entry:  # fmt: skip
            return Entry(name, file, f"{META}/{folder}/{file}", CC_BY_NC, kind, norm_pix, md5=md5, note=note, **shape)

        found += [
            official(ours, "pretrain", f"mae_pretrain_vit_{size}.pth", "encoder", md5=PRETRAIN_MD5[size],
                     note=f"trained on normalised pixels for 1600 epochs; with its decoder: {ours}_full"),
            official(f"{ours}_full", "pretrain", f"mae_pretrain_vit_{size}_full.pth", "pretraining", True,
                     note="named in facebookresearch/mae issue 8"),
            official(f"{ours}_visualize", "visualize", f"mae_visualize_vit_{size}.pth", "pretraining", False,
                     note=f"the demo's pictures; another run than {ours}"),
            official(f"{ours}_finetuned", "finetune", f"mae_finetuned_vit_{size}.pth", "classifier",
                     md5=FINETUNED_MD5[size], note=f"ImageNet-1k top-1 {TOP1[size]} (FINETUNE.md)"),
        ]  # fmt: skip
        if size == "large":
            found.append(official(f"{ours}_visualize_ganloss", "visualize", "mae_visualize_vit_large_ganloss.pth",
                                  "pretraining", False, note="as _visualize, with a GAN loss: sharper"))  # fmt: skip
        tag = f"vit-mae-{size}"
        url = f"https://huggingface.co/facebook/{tag}"
        found.append(Entry(f"hf_{tag.replace('-', '_')}", tag, url, f"unknown: see {url}", "pretraining", None, **shape,
                           note="its config.json says what it predicts (norm_pix_loss)"))  # fmt: skip
        tag = f"vit_{size}_patch{patch}_224.mae"
        found.append(Entry(f"timm_{tag}", tag, f"https://huggingface.co/timm/{tag}", CC_BY_NC, "encoder", None, **shape,
                           note=f"timm names {ours}'s file as its origin"))  # fmt: skip
    return found


CATALOG = {entry.name: entry for entry in _entries()}


def get(name: str) -> Entry:
    """The entry of a name. Raises UserError where there is none."""
    if name not in CATALOG:
        raise UserError(f"'{name}' is no published file's name. {nearest(name, CATALOG)} `mae_jax convert --list`.")
    return CATALOG[name]


def identify(path: Path, md5: str, name: str = "") -> Entry | None:
    """The entry that a file is, or None.

    Args:
      md5: of the file ("" of a folder).
      name: the entry that it is said to be; "none": do not look.

    Raises:
      UserError: its MD5 contradicts the name that it has or is said to have.
    """
    if name == "none":
        return None
    known = next((e for e in CATALOG.values() if e.md5 and md5.startswith(e.md5)), None) if md5 else None
    called = next((e for e in CATALOG.values() if e.file == path.name), None)
    named = get(name) if name else called
    if named is not None and known is not named and called is not None and called is not named:
        raise UserError(
            f"{path} is called like {called.name}, not {named.name} ({named.file}): say that name, or rename the file."
        )
    if named is None or known is named or not md5:
        return known or named
    if named.md5 or known is not None:
        is_ = f"it is {known.file} ({known.name})" if known else "it is no file of the catalogue, or damaged"
        expected = f", and that of {named.file} begins with {named.md5}" if named.md5 else ""
        raise UserError(
            f"{path} is not {named.name}: its MD5 is {md5[:12]}...{expected}; {is_}. Get {named.url} again, or say "
            f"--name {known.name if known else 'none'} to read it as {'that' if known else 'a file of unknown origin'}."
        )
    return named


def check(entry: Entry, method: dict[str, Any], kind: str, path: Path) -> None:
    """Raise UserError where a file's contents contradict its entry."""
    found = (kind, method["dim"], method["depth"], method["patch"])
    expected = (entry.kind, entry.dim, entry.depth, entry.patch)
    if found != expected:
        say = "a {} of width {}, depth {}, patch {}".format
        raise UserError(
            f"{path} is not {entry.name}: it holds {say(*found)}, expected {say(*expected)}. If it is another file, "
            f"say --name none."
        )


_said: set[str] = set()


def state_licence(what: str, licence: str) -> None:
    """Print a licence to stderr, once per process."""
    line = f"{what}: licence {licence}"
    if line not in _said:
        _said.add(line)
        print(line, file=sys.stderr, flush=True)


def table() -> str:
    """The catalogue for people."""
    lines = [f"{'name':32}{'file':36}{'holds':13}{'pixels':12}{'MD5':9}licence"]
    for e in CATALOG.values():
        pixels = "-" if e.kind != "pretraining" else PIXELS[e.norm_pix]
        lines.append(f"{e.name:32}{e.file:36}{e.kind:13}{pixels:12}{e.md5 or 'unknown':9}{e.licence}")
        lines.append(f"    {e.url}{'; ' + e.note if e.note else ''}")
    return "\n".join(lines)


PIXELS = {True: "normalised", False: "raw", None: "see config"}
