"""Tiny files in the layouts of published weights: names by hand, as papers/mae.md and their sources list them."""

import json

import numpy as np
from safetensors.numpy import save_file

from mae_jax.tokens.positions import sincos, with_prefix

DIM, DEPTH, PATCH, GRID, DECODER_DIM, DECODER_DEPTH = 16, 2, 4, 3, 8, 1
HINTS = dict(heads=2, decoder_heads=2)


def table(dim):
    """facebookresearch/mae's fixed positions, a row of zeros first."""
    return with_prefix(sincos(dim, (GRID, GRID)), 1)[None]


def official_names(decoder=False, head=0, fc_norm=False, depth=DEPTH):
    """{name: shape} of facebookresearch/mae's state dicts, without their fixed tables."""

    def block(stack, i, d):
        return {
            f"{stack}.{i}.norm1.weight": (d,), f"{stack}.{i}.norm1.bias": (d,),
            f"{stack}.{i}.attn.qkv.weight": (3 * d, d), f"{stack}.{i}.attn.qkv.bias": (3 * d,),
            f"{stack}.{i}.attn.proj.weight": (d, d), f"{stack}.{i}.attn.proj.bias": (d,),
            f"{stack}.{i}.norm2.weight": (d,), f"{stack}.{i}.norm2.bias": (d,),
            f"{stack}.{i}.mlp.fc1.weight": (4 * d, d), f"{stack}.{i}.mlp.fc1.bias": (4 * d,),
            f"{stack}.{i}.mlp.fc2.weight": (d, 4 * d), f"{stack}.{i}.mlp.fc2.bias": (d,),
        }  # fmt: skip

    names = {
        "cls_token": (1, 1, DIM),
        "patch_embed.proj.weight": (DIM, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (DIM,),
    }
    for i in range(depth):
        names |= block("blocks", i, DIM)
    norm = "fc_norm" if fc_norm else "norm"
    names |= {f"{norm}.weight": (DIM,), f"{norm}.bias": (DIM,)}
    if head:
        names |= {"head.weight": (head, DIM), "head.bias": (head,)}
    if decoder:
        names |= {"mask_token": (1, 1, DECODER_DIM), "decoder_embed.weight": (DECODER_DIM, DIM),
                  "decoder_embed.bias": (DECODER_DIM,)}  # fmt: skip
        for i in range(DECODER_DEPTH):
            names |= block("decoder_blocks", i, DECODER_DIM)
        out = PATCH * PATCH * 3
        names |= {"decoder_norm.weight": (DECODER_DIM,), "decoder_norm.bias": (DECODER_DIM,),
                  "decoder_pred.weight": (out, DECODER_DIM), "decoder_pred.bias": (out,)}  # fmt: skip
    return names


def random_tensors(names, seed=0):
    rng = np.random.default_rng(seed)
    return {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in names.items()}


def official(decoder=False, head=0, fc_norm=False, learned=False):
    """A state dict of the official code."""
    tensors = random_tensors(official_names(decoder, head, fc_norm))
    tensors["pos_embed"] = random_tensors({"p": (1, 1 + GRID**2, DIM)}, 1)["p"] if learned else table(DIM)
    if decoder:
        tensors["decoder_pos_embed"] = table(DECODER_DIM)
    return tensors


def write(path, tensors):
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, path)
    return path


def folder(path, tensors, config, processor=None):
    """A folder of the hub."""
    path.mkdir()
    write(path / "model.safetensors", tensors)
    (path / "config.json").write_text(json.dumps(config))
    if processor:
        (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path
