"""VideoMAE's weights: official names made up, Hugging Face's own models in and out (needs the `compare` extra)."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_files import random_tensors, write

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.interop.names import export_weights
from mae_jax.interop.video_layouts import official
from mae_jax.interop.videomae import MEAN, STD
from mae_jax.weights import store
from mae_jax.weights.export import export
from mae_jax.weights.heads import logits
from mae_jax.weights.hints import Hints
from mae_jax.weights.opened import opened
from mae_jax.weights.store import open_weights

SMALL = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=8, patch_size=4,
    num_frames=4, decoder_hidden_size=8, decoder_num_attention_heads=2, decoder_num_hidden_layers=1,
    decoder_intermediate_size=24,
)  # fmt: skip
VIDEO = np.random.default_rng(0).standard_normal((2, 4, 8, 8, 3)).astype(np.float32)
HIDDEN = np.tile(np.array([[1, 0, 1, 1], [1, 1, 1, 0]], bool), (1, 2))  # tubes: 2 slots of 4 tokens, one visible


def block(stack, i, d):
    return {
        f"{stack}.{i}.norm1.weight": (d,), f"{stack}.{i}.norm1.bias": (d,), f"{stack}.{i}.attn.q_bias": (d,),
        f"{stack}.{i}.attn.v_bias": (d,), f"{stack}.{i}.attn.qkv.weight": (3 * d, d),
        f"{stack}.{i}.attn.proj.weight": (d, d), f"{stack}.{i}.attn.proj.bias": (d,),
        f"{stack}.{i}.norm2.weight": (d,), f"{stack}.{i}.norm2.bias": (d,),
        f"{stack}.{i}.mlp.fc1.weight": (3 * d, d), f"{stack}.{i}.mlp.fc1.bias": (3 * d,),
        f"{stack}.{i}.mlp.fc2.weight": (d, 3 * d), f"{stack}.{i}.mlp.fc2.bias": (d,),
    }  # fmt: skip


def pretraining_names():
    """{name: shape} as the sheet's goldens list them, for a patch of 2 x 14 x 14 and widths 16 and 8."""
    names = {"encoder.patch_embed.proj.weight": (16, 3, 2, 14, 14), "encoder.patch_embed.proj.bias": (16,)}
    names |= block("encoder.blocks", 0, 16) | block("encoder.blocks", 1, 16) | block("decoder.blocks", 0, 8)
    for norm, d in (("encoder.norm", 16), ("decoder.norm", 8)):
        names |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    names |= {"encoder_to_decoder.weight": (8, 16), "mask_token": (1, 1, 8)}
    return names | {"decoder.head.weight": (1176, 8), "decoder.head.bias": (1176,)}


def classifier_names(scale=False):
    names = {"patch_embed.proj.weight": (16, 3, 2, 16, 16), "patch_embed.proj.bias": (16,), "fc_norm.weight": (16,),
             "fc_norm.bias": (16,), "head.weight": (5, 16), "head.bias": (5,)}  # fmt: skip
    names |= block("blocks", 0, 16) | block("blocks", 1, 16)
    return names | ({f"blocks.{i}.attn.scale": (2, 1, 1) for i in (0, 1)} if scale else {})


HINTS = Hints(heads=2, decoder_heads=2)


def test_an_official_file_is_read_whole_and_back(tmp_path):
    tensors = random_tensors(pretraining_names())
    weights = open_weights(write(tmp_path / "v.safetensors", tensors), hints=HINTS)
    method = weights.config["method"]
    assert weights.kind == "pretraining" and weights.info["norm_pix"] is True and method["name"] == "videomae"
    assert (method["patch"], method["frames"], method["dim"], method["depth"]) == (14, 16, 16, 2)
    assert (method["decoder_dim"], method["decoder_depth"], method["qkv_bias"], method["mlp_ratio"]) == (8, 1, "qv", 3)
    back = export_weights(official(3, (2, 14, 14), True), {"params": weights.params})
    assert back.keys() == tensors.keys() and all((back[n] == tensors[n]).all() for n in tensors)
    alone = open_weights(
        tmp_path / "v.safetensors", hints=Hints(heads=2, encoder_only=True)
    )  # the encoder's last norm stays
    assert alone.kind == "encoder" and set(alone.params) == {"encoder"} and not alone.info["absent"]


@pytest.mark.parametrize("cosine", [False, True])
def test_official_classifiers(cosine, tmp_path):
    tensors = random_tensors(classifier_names(cosine))
    weights = open_weights(write(tmp_path / "c.safetensors", tensors), hints=HINTS)
    assert weights.kind == "classifier" and weights.info["head"] == {"pool": "mean", "count": 5, "classes": []}
    assert weights.config["method"]["name"] == ("videomaev2" if cosine else "videomae")
    assert (weights.params["encoder"]["norm"]["scale"] == 1).all() and "encoder/norm/" in weights.info["absent"]
    if cosine:
        with pytest.raises(UserError, match="no cosine attention"):
            export(weights, tmp_path / "out", "hf")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        import torch
        import transformers
    except ImportError:
        torch = None

theirs_too = pytest.mark.skipif(torch is None, reason="transformers is not installed")
quiet = pytest.mark.filterwarnings("ignore")


def made(name, **config):
    """Their model in eval mode with every parameter drawn."""
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.VideoMAEConfig(**SMALL, layer_norm_eps=1e-6, **config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model.eval()


def theirs(model, **kwargs):
    with torch.no_grad():
        return model(torch.tensor(VIDEO).permute(0, 1, 4, 2, 3), **kwargs)


def close(ours, expected):
    np.testing.assert_allclose(np.asarray(ours), expected.numpy(), atol=2e-5, rtol=1e-4)


@theirs_too
@quiet
def test_pretraining_gives_their_loss_and_prediction_and_goes_out_again(tmp_path):
    model = made("VideoMAEForPreTraining", use_mean_pooling=False)
    model.save_pretrained(tmp_path / "v")
    o = opened(tmp_path / "v")
    assert o.weights.kind == "pretraining" and o.run.method.mean == MEAN and o.run.method.std == STD
    method = dataclasses.replace(o.run.method, mask_ratio=0.75)
    out = theirs(model, bool_masked_pos=torch.tensor(HIDDEN))
    context = Context(jax.random.key(0), given={"scores": jnp.asarray(HIDDEN, jnp.float32)})
    run = jax.jit(lambda p: method.loss(p, o.rest, {"video": jnp.asarray(VIDEO)}, context))
    loss, aux = run(o.state["params"])
    close(aux.seen["pred"], out.logits)
    close(loss, out.loss)
    export(store.read(store.write(tmp_path / "n.safetensors", o.weights)), tmp_path / "out", "hf")
    again, report = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    np.testing.assert_array_equal(
        theirs(again.eval(), bool_masked_pos=torch.tensor(HIDDEN)).logits.numpy(), out.logits.numpy()
    )
    again.save_pretrained(tmp_path / "again")
    first, last = ((tmp_path / p / "model.safetensors").read_bytes() for p in ("v", "again"))
    assert first == last


@theirs_too
@quiet
def test_a_classifier_gives_their_logits_and_goes_out_again(tmp_path):
    labels = {0: "run", 1: "jump", 2: "sit"}
    model = made("VideoMAEForVideoClassification", id2label=labels, label2id={v: k for k, v in labels.items()})
    model.save_pretrained(tmp_path / "v")
    o = opened(tmp_path / "v")
    assert o.weights.info["head"] == {"pool": "mean", "count": 3, "classes": ["run", "jump", "sit"]}
    features = jax.jit(o.run.method.encode)(o.state["params"], o.rest, {"video": jnp.asarray(VIDEO)})
    close(logits(features, o.weights.head, "mean", 1e-6), theirs(model).logits)
    export(o.weights, tmp_path / "out", "hf")
    again, report = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()) and again.config.id2label == labels
    np.testing.assert_array_equal(theirs(again.eval()).logits.numpy(), theirs(model).logits.numpy())


@theirs_too
@quiet
def test_encoders_with_and_without_the_last_norm(tmp_path):
    for pooled in (True, False):
        model = made("VideoMAEModel", use_mean_pooling=pooled)
        model.save_pretrained(tmp_path / f"v{pooled}")
        o = opened(tmp_path / f"v{pooled}")
        features = jax.jit(o.run.method.encode)(o.state["params"], o.rest, {"video": jnp.asarray(VIDEO)})
        assert o.weights.kind == "encoder" and bool(o.weights.info["absent"]) == pooled
        close(features.tokens if pooled else features.normed, theirs(model).last_hidden_state)


@theirs_too
@quiet
def test_their_default_leaves_out_the_norm_that_pretraining_has(tmp_path):
    model = made("VideoMAEForPreTraining")
    model.save_pretrained(tmp_path / "v")
    with pytest.raises(UserError, match="use_mean_pooling is true"):
        open_weights(tmp_path / "v")
    assert open_weights(tmp_path / "v", hints=Hints(encoder_only=True)).kind == "encoder"
    memory = {name: x.numpy() for name, x in model.state_dict().items()}  # the names of transformers 5
    (tmp_path / "m").mkdir()
    write(tmp_path / "m" / "model.safetensors", memory)
    config = json.loads((tmp_path / "v" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    both = [open_weights(tmp_path / p, hints=Hints(encoder_only=True)).params for p in ("v", "m")]
    jax.tree.map(np.testing.assert_array_equal, *both)
