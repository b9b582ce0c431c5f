"""Name maps of the parts that most published Transformers share (timm's names)."""

from mae_jax.interop.names import Rule, Transform, patch_kernel, transpose


def linear(theirs: str, ours: str) -> list[Rule]:
    """A torch Linear."""
    return [Rule(f"{theirs}.weight", f"{ours}/kernel", transpose), Rule(f"{theirs}.bias", f"{ours}/bias")]


def norm(theirs: str, ours: str) -> list[Rule]:
    """A LayerNorm."""
    return [Rule(f"{theirs}.weight", f"{ours}/scale"), Rule(f"{theirs}.bias", f"{ours}/bias")]


def patch_embed(theirs: str, ours: str, channels: int, patch: tuple[int, ...]) -> list[Rule]:
    """A convolution whose kernel and stride are the patch."""
    return [
        Rule(f"{theirs}.weight", f"{ours}/kernel", patch_kernel(channels, patch)),
        Rule(f"{theirs}.bias", f"{ours}/bias"),
    ]


def blocks(theirs: str, ours: str) -> list[Rule]:
    """A stack of pre-norm Transformer blocks, {theirs}.0.norm1.weight and so on."""
    block, mine = theirs + r".{i:\d+}", ours + "/{i}"
    return [
        *norm(f"{block}.{{norm:norm[12]}}", f"{mine}/{{norm}}"),
        *linear(f"{block}.attn.{{layer:qkv|proj}}", f"{mine}/attn/{{layer}}"),
        *linear(f"{block}.mlp.{{layer:fc1|fc2}}", f"{mine}/mlp/{{layer}}"),
    ]


def beit_blocks(theirs: str, ours: str) -> list[Rule]:
    """The same with what BEiT's have besides, where they have it: biases of q and v, layer scale, cosine scale."""
    block, mine = theirs + r".{i:\d+}", ours + "/{i}"
    flat = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1, 1))  # (heads, 1, 1) <-> (heads,)
    return [
        *blocks(theirs, ours),
        Rule(f"{block}.attn.{{name:[qv]_bias}}", f"{mine}/attn/{{name}}"),
        Rule(f"{block}.attn.scale", f"{mine}/attn/scale", flat),
        Rule(f"{block}.gamma_{{k:[12]}}", f"{mine}/scale{{k}}/gamma"),
    ]
