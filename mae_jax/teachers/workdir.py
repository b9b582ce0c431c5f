"""The encoder of a run of ours: a workdir, or an .npz of one.

A workdir gives the `params/encoder` of its newest good checkpoint; an .npz holds our own parameter paths
("blocks/0/attn/qkv/kernel", or with "encoder/" in front), of any float type.

Reading checkpoints belongs to train, which imports this room: the one import that goes the other way happens when a
workdir is read, and mae_jax/train/checkpoint.py imports neither methods nor teachers.
"""

import hashlib
from typing import Any

import numpy as np

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.interop.files import read_tensors
from mae_jax.methods.base import FrozenSpec
from mae_jax.teachers import files


def shapes(spec: FrozenSpec) -> dict[str, Any]:
    """Those of the tower."""
    return files.tower_shapes(spec)


def load(spec: FrozenSpec) -> tuple[dict[str, Any], str]:
    """The encoder's parameters, each of the shape that the tower has."""
    path = files.find(spec)
    if path.is_dir():
        from mae_jax.train.checkpoint import restore_arrays

        tensors = tree.flatten(restore_arrays(path, subtree="params/encoder")["params"])
        found = content_hash(tensors)
    else:
        tensors, found = read_tensors(path), files.sha256(path)
    files.check_hash(spec, found)
    tensors = {name.removeprefix("encoder/"): array for name, array in tensors.items()}
    wanted = tree.flatten(files.tower_shapes(spec))
    wrong = [f"{p}: {tensors[p].shape if p in tensors else 'missing'}, expected {w.shape}" for p, w in wanted.items()
             if p not in tensors or tensors[p].shape != w.shape]  # fmt: skip
    wrong += [f"{p}: not a part of this network" for p in tensors if p not in wanted]
    if wrong:
        raise UserError(
            f"the encoder in {path} does not fit the frozen network in {len(wrong)} array(s), first: "
            f"{'; '.join(wrong[:3])}. Are the network's sizes those of that run?"
        )
    return tree.unflatten({p: np.asarray(tensors[p], np.float32) for p in wanted}), found


def content_hash(tensors: dict[str, np.ndarray]) -> str:
    """A checkpoint is many files, which differ between equal saves: hash what it says instead."""
    digest = hashlib.sha256()
    for path in sorted(tensors):
        array = np.ascontiguousarray(tensors[path])
        digest.update(f"{path} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
