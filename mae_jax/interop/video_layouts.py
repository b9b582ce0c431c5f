"""Name maps of published video ViTs: the official layout (VideoMAE, VideoMAE V2) and Hugging Face's.

All maps fill {"params": {"encoder", "decoder"}, "head"}, the trees of a weights file. Positions are fixed and
never in a file, but for a classifier's learned ones.
"""

from mae_jax.interop import blocks as parts
from mae_jax.interop.names import Rule, Rules, stacked, transpose
from mae_jax.interop.videomae import classifier_rules, pretraining_rules

ENCODER, DECODER, HEAD = "params/encoder", "params/decoder", "head/params"


def official(channels: int, cut: tuple[int, ...], decoder: bool) -> Rules:
    """`PretrainVisionTransformer`, or `VisionTransformer` where there is no decoder."""
    rules = pretraining_rules(channels, cut) if decoder else classifier_rules(channels, cut)
    placed = []
    for rule in rules:
        assert isinstance(rule, Rule)
        head = rule.ours.split("/")[0] in ("fc_norm", "head")
        placed.append(Rule(rule.theirs, f"{HEAD if head else 'params'}/{rule.ours}", rule.transform))
    return placed


def hugging_face(channels: int, cut: tuple[int, ...], prefix: str, stored: bool = True) -> Rules:
    """VideoMAEModel (prefix ""), VideoMAEForPreTraining, VideoMAEForVideoClassification (prefix "videomae.").

    Args:
      stored: names as files have them ("q_bias", "v_bias"); else as models of transformers 5 have them in memory
        ("query.bias", "value.bias").
    """
    return [
        *parts.patch_embed(f"{prefix}embeddings.patch_embeddings.projection", f"{ENCODER}/patch_embed", channels, cut),
        *_blocks(f"{prefix}encoder.layer", f"{ENCODER}/blocks", stored),
        *parts.norm(f"{prefix}layernorm", f"{ENCODER}/norm"),
        Rule("encoder_to_decoder.weight", f"{DECODER}/embed/kernel", transpose),
        Rule("mask_token", f"{DECODER}/mask_token"),
        *_blocks("decoder.decoder_layers", f"{DECODER}/blocks", stored),
        *parts.norm("decoder.norm", f"{DECODER}/norm"),
        *parts.linear("decoder.head", f"{DECODER}/pred"),
        *parts.norm("fc_norm", f"{HEAD}/fc_norm"),
        *parts.linear("classifier", f"{HEAD}/head"),
    ]


def _blocks(theirs: str, ours: str, stored: bool) -> list[Rule]:
    block, mine = theirs + r".{i:\d+}", ours + "/{i}"
    attention = f"{block}.attention.attention"
    biases = {"q_bias": "q_bias", "v_bias": "v_bias"} if stored else {"query.bias": "q_bias", "value.bias": "v_bias"}
    return [
        Rule(
            tuple(f"{attention}.{name}.weight" for name in ("query", "key", "value")),
            f"{mine}/attn/qkv/kernel", stacked(3, transpose),
        ),
        *(Rule(f"{attention}.{name}", f"{mine}/attn/{own}") for name, own in biases.items()),
        *parts.linear(f"{block}.attention.output.dense", f"{mine}/attn/proj"),
        *parts.norm(f"{block}.layernorm_before", f"{mine}/norm1"),
        *parts.norm(f"{block}.layernorm_after", f"{mine}/norm2"),
        *parts.linear(f"{block}.intermediate.dense", f"{mine}/mlp/fc1"),
        *parts.linear(f"{block}.output.dense", f"{mine}/mlp/fc2"),
    ]  # fmt: skip
