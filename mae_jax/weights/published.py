"""A published file or folder -> `Weights`: found, hashed, identified, understood, and every tensor accounted for."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core import plain, tree
from mae_jax.core.errors import UserError
from mae_jax.interop.files import read_tensors
from mae_jax.interop.names import Constant, import_weights
from mae_jax.weights import catalog, heads
from mae_jax.weights.families import Found, understand
from mae_jax.weights.hints import Hints, agreed
from mae_jax.weights.store import ENCODER_PARTS, Weights

IN_FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# What a config.json may say at most, by how the key ends.
MOST = {
    "hidden_size": 1 << 16, "intermediate_size": 1 << 18, "hidden_layers": 1024, "attention_heads": 1024,
    "image_size": 4096, "patch_size": 4096, "num_frames": 1024, "tubelet_size": 1024, "num_channels": 1024,
}  # fmt: skip
BESIDE_ENCODER = re.compile(
    r"(params/)?(decoder|encoder_to_decoder|mask_token|head[./]|fc_norm|classifier|MAPHead_0|pre_logits|ppnet\."
    r"|MAE_decoder|MAE_encoder\.proj_cls|cls_head)"
)


def read_published(path: Path, hints: Hints | None = None) -> Weights:
    """Read a file (.pth, .pt, .bin, .safetensors, .npz) or a folder of the Hugging Face hub.

    Raises:
      UserError: no such file, no known family, tensors that fit nothing (each is named), a file that is not the one
        that its name says, a hint that contradicts it.
    """
    hints = hints or Hints()
    file = _file(path)
    tensors, md5, sha256 = _read(file)
    entry = catalog.identify(path, "" if path.is_dir() else md5, hints.name)
    aside = [name for name in tensors if hints.encoder_only and BESIDE_ENCODER.match(name)]
    tensors = {name: x for name, x in tensors.items() if name not in aside}
    found = understand(tensors, _config(file.parent if path.is_dir() else None), hints, str(path))
    if entry is not None:
        catalog.check(entry, found.method, entry.kind if aside else found.kind, path)
        catalog.state_licence(entry.name, entry.licence)
        agreed("norm_pix", entry.norm_pix, hints.norm_pix, entry.name)
    agreed("norm_pix", found.norm_pix, hints.norm_pix, f"the config.json of {path}")
    norm_pix = next((x for x in (found.norm_pix, entry and entry.norm_pix, hints.norm_pix) if x is not None), None)
    fields = _fields(found.method["name"])
    if "norm_pix" not in fields and norm_pix is not None:
        raise UserError(f"{path} is of '{found.method['name']}', which predicts no pixels: leave out --norm-pix.")
    pixels = {"norm_pix": bool(norm_pix)} if "norm_pix" in fields else {}
    method = _whole(found.method | pixels | _own_colours(found, hints))
    weights, extra = _import(found, method, path)
    mean, std = hints.mean or found.mean, hints.std or found.std
    info: dict[str, Any] = {
        "kind": found.kind, "source": str(path),
        "family": found.family, "published": entry.name if entry else None, "url": entry.url if entry else None,
        "known_by": None if entry is None else "hash" if entry.md5 and md5.startswith(entry.md5) else "name",
        "licence": entry.licence if entry else "unknown: not a file of the catalogue", "md5": md5, "sha256": sha256,
        "positions": found.order, "absent": dict(found.absent),
        "left_out": dict(found.left_out) | ({"decoder and head": "only the encoder was asked for"} if aside else {}),
        "colours": None if found.augment == {} else "given" if hints.mean else
                   "stated" if found.stated or entry else "assumed",
        "head": found.head, "step": None, "assumed": dict(found.assumed),
    }  # fmt: skip
    info |= {"norm_pix": norm_pix if found.kind == "pretraining" else None} if pixels else {}
    augment = found.augment
    if augment is None:
        augment = {"mean": _channels(mean, method), "std": _channels(std, method)}
    config = {"method": method, "augment": dict(augment)}
    head, stats = weights.get("head"), weights.get("stats", {})
    return Weights(config, weights["params"], stats, head=head, info=info, extra=extra)


def _whole(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of the method, checked."""
    from mae_jax import methods
    from mae_jax.methods.base import config_fields

    cls = methods.get(fields["name"])
    cls(**{key: value for key, value in fields.items() if key != "name"}).check()
    return {"name": cls.name} | {key: f.default for key, f in config_fields(cls).items()} | dict(fields)


def _own_colours(found: Found, hints: Hints) -> dict[str, Any]:
    """The colours of a method that has them of its own, for its targets."""
    if "mean" not in _fields(found.method["name"]):
        return {}
    return {"mean": hints.mean or found.mean, "std": hints.std or found.std}


def _fields(name: str) -> Mapping[str, Any]:
    from mae_jax import methods
    from mae_jax.methods.base import config_fields

    return config_fields(methods.get(name))


def template(method: Mapping[str, Any], head: Mapping[str, Any] | None, decoder: bool) -> dict[str, Any]:
    """Shapes of {"params", "stats", "head"} of a method and a classifier's head."""
    import jax

    from mae_jax import methods
    from mae_jax.train.build import sample_batch

    made: Any = methods.get(method["name"])(**{key: value for key, value in method.items() if key != "name"})
    params, stats = jax.eval_shape(made.init, jax.random.key(0), sample_batch(made))
    if not decoder:
        params, stats = ({part: x[part] for part in ENCODER_PARTS if part in x} for x in (params, stats))
    if head is None:
        return {"params": params, "stats": stats}
    width = made.dim * (2 if head["pool"] == "class_max" else 1)
    own, own_stats = heads.shapes(width, head.get("hidden", ()), head["count"], normed=head["pool"] == "mean")
    stats = stats | ({"head": own_stats} if own_stats else {})
    return {"params": params, "stats": stats, "head": {"params": own}}


def _import(found: Found, method: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """({"params", "stats", "head"}, the fixed tables that are not ours to the bit)."""
    wanted = tree.flatten(template(method, found.head, found.kind == "pretraining"))
    absent = {p: leaf for p, leaf in wanted.items() if _absent(p, found.absent)}
    shapes = tree.unflatten({p: leaf for p, leaf in wanted.items() if p not in absent})
    _check_decoder_table(found, path)
    try:
        got, _ = import_weights(found.rules, found.tensors, shapes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    flat = tree.flatten(got)
    fill = {p: np.full(leaf.shape, p.endswith("/scale"), np.float32) for p, leaf in absent.items()}
    constants = {rule.theirs: rule.value for rule in found.rules if isinstance(rule, Constant)}
    kept = {part: found.tensors[name] for name, part in found.tables.items()
            if name in constants and name in found.tensors
            and not np.array_equal(constants[name], found.tensors[name])}  # fmt: skip
    broken = [p for p, x in flat.items() if not np.isfinite(x).all()]
    if broken:
        raise UserError(f"{path} holds numbers that are not finite, in {', '.join(broken[:3])}: it is damaged.")
    return tree.unflatten({p: flat.get(p, fill.get(p)) for p in wanted}), kept


def _check_decoder_table(found: Found, path: Path) -> None:
    """Ours always adds MAE's table to the decoder's tokens."""
    for rule in found.rules:
        if isinstance(rule, Constant) and found.tables.get(rule.theirs) == "decoder":
            table = found.tensors.get(rule.theirs)
            same = table is not None and table.shape == rule.value.shape
            if table is None or (same and np.abs(table - rule.value).max() <= rule.tolerance):
                return
            zero = "all zeros (transformers 5 leaves it so in a ViTMAE that is made from scratch)"
            is_ = "of another shape" if not same else zero if not table.any() else "another one"
            raise UserError(
                f"{path}: the decoder's position table {rule.theirs} is {is_}, and ours adds MAE's fixed sine-cosine "
                f"table, with which this decoder would predict something else. Its encoder can be read: --as encoder."
            )


def _check_sizes(config: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError where a config.json claims a network that nobody has: tables are made by what it says."""
    for key, value in config.items():
        for number in value if isinstance(value, list) else [value]:
            most = MOST.get(next((end for end in MOST if key.endswith(end)), ""))
            if most and isinstance(number, int | float) and not 0 < number <= most:
                raise UserError(f"{folder / 'config.json'} says {key}={number}: 1 to {most} expected.")


def _absent(path: str, patterns: Mapping[str, str]) -> bool:
    return any(re.match(f"params/{pattern}", path) for pattern in patterns)


def _channels(colours: tuple[float, ...], method: Mapping[str, Any]) -> tuple[float, ...]:
    """As many as the input has: three stand for themselves, other inputs take their mean."""
    n = method["channels"]
    return colours if len(colours) in (1, n) else (sum(colours) / len(colours),)


def _file(path: Path) -> Path:
    """The file of tensors that a path means."""
    if not path.exists():
        raise UserError(f"there are no weights at '{path}'.")
    if not path.is_dir():
        return path
    for name in IN_FOLDER:
        if (path / name).is_file():
            return path / name
    raise UserError(f"the folder {path} holds no weights: none of {', '.join(IN_FOLDER)}, and no run of ours.")


def _read(file: Path) -> tuple[dict[str, np.ndarray], str, str]:
    """(tensors, MD5, SHA-256), of a file, or of the shards that an index names (hashes are the index's)."""
    if file.suffix != ".json":
        return read_tensors(file), *_hashes(file)
    try:
        index = plain.read_json(file)["weight_map"]
        shards = sorted(set(index.values()))
        if not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards):
            raise ValueError("a shard's name leads out of the folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is no index of shards ({error}).") from None
    tensors: dict[str, np.ndarray] = {}
    for shard in shards:
        tensors |= read_tensors(file.parent / shard)
    missing, more = sorted(set(index) - set(tensors)), sorted(set(tensors) - set(index))
    if missing or more:
        raise UserError(f"{file} and its shards differ in {', '.join([*missing, *more][:4])}: is the folder whole?")
    return tensors, *_hashes(file)


def _hashes(file: Path) -> tuple[str, str]:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            md5.update(block)
            sha256.update(block)
    return md5.hexdigest(), sha256.hexdigest()


def _config(folder: Path | None) -> dict[str, Any]:
    """config.json of a folder, with preprocessor_config.json under "preprocessor"."""
    if folder is None:
        return {}
    parts = {}
    for name in ("config.json", "preprocessor_config.json"):
        parts[name] = plain.read_json(folder / name) if (folder / name).is_file() else {}
        if not isinstance(parts[name], dict):
            raise UserError(f"{folder / name} holds no object of settings.")
    _check_sizes(parts["config.json"], folder)
    return parts["config.json"] | {"preprocessor": parts["preprocessor_config.json"]} if parts["config.json"] else {}
