"""Name maps of the parts that most published Transformers share (timm's names)."""

from mae_jax.interop.names import Rule, patch_kernel, transpose


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
