"""A masked autoencoder that is read under a mask (DMAE): of a published file, of a native one, or of a run of ours.

Published: facebookresearch/mae's mae_pretrain_*.pth and mae_visualize_*.pth, or another in these names. A workdir gives
the parameters of its newest good checkpoint; a native .safetensors or an .npz holds our own paths. Only what
`spec.network` has is read: of a teacher that is run up to a block, neither what lies above it nor the decoder.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core import plain, tree
from mae_jax.core.errors import UserError
from mae_jax.interop.files import metadata, read_tensors
from mae_jax.interop.mae import autoencoder_rules
from mae_jax.interop.names import import_weights
from mae_jax.methods.base import FrozenSpec
from mae_jax.teachers import files
from mae_jax.teachers.workdir import content_hash

# Where a file of ours may have more than the network: the encoder's upper blocks and last norm, the decoder.
MORE = re.compile(r"encoder/(blocks/\d+|norm)/|decoder/")


def shapes(spec: FrozenSpec) -> dict[str, Any]:
    """Those of the `Autoencoder` (nets/autoencoder.py)."""
    return spec.network.shapes()


def load(spec: FrozenSpec) -> tuple[dict[str, Any], str]:
    """The parameters that the network has, of its shapes and of its number of heads where the file says that."""
    path = files.find(spec)
    if path.is_dir():
        from mae_jax.train.checkpoint import restore_arrays

        tensors = tree.flatten(restore_arrays(path, subtree="params"))
        found = content_hash(tensors)
    else:
        tensors, found = read_tensors(path), files.sha256(path)
    files.check_hash(spec, found)
    template = shapes(spec)
    if "cls_token" in tensors:
        try:
            return import_weights(autoencoder_rules(spec.network), tensors, template)[0], found
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    _check_config(path, spec)
    return _ours(path, tensors, tree.flatten(template)), found


def _ours(path: Path, tensors: dict[str, np.ndarray], wanted: dict[str, Any]) -> dict[str, Any]:
    """The wanted ones of {our path: array}, with "params/" in front or not."""
    if any(name.startswith("params/") for name in tensors):  # a native file has other parts as well
        tensors = {name.removeprefix("params/"): x for name, x in tensors.items() if name.startswith("params/")}
    wrong = [f"{p}: {tensors[p].shape if p in tensors else 'missing'}, expected {w.shape}" for p, w in wanted.items()
             if p not in tensors or tensors[p].shape != w.shape]  # fmt: skip
    wrong += [f"{p}: not a part of this network" for p in tensors
              if p.startswith("encoder/") and p not in wanted and not MORE.match(p)]  # fmt: skip
    if wrong:
        raise UserError(
            f"the weights in {path} do not fit the teacher in {len(wrong)} array(s), first: {'; '.join(wrong[:3])}. "
            f"Are the teacher's sizes those of that run?"
        )
    return tree.unflatten({p: np.asarray(tensors[p], np.float32) for p in wanted})


def _check_config(path: Path, spec: FrozenSpec) -> None:
    """Raise UserError on what the arrays' shapes cannot tell and the file's config does: heads and patch."""
    if path.is_dir():
        config = plain.read_json(path / "config.json") if (path / "config.json").is_file() else {}
    else:
        try:
            config = plain.loads(metadata(path).get("config", "{}"))
        except ValueError as error:
            raise UserError(f"the config in {path} cannot be read: {error}.") from None
    said, net = config.get("method") if isinstance(config, dict) else None, spec.network
    said = said if isinstance(said, dict) else {}
    heads = {"heads": net.encoder.shape.heads}
    if net.decoder is not None:
        heads["decoder_heads"] = net.decoder.shape.heads
    for key, expected in heads.items():
        if said.get(key, expected) != expected:
            raise UserError(
                f"the weights in {path} were trained with method.{key}={said[key]}, and the teacher is declared with "
                f"{expected}: set method.teacher_{key}={said[key]}."
            )
