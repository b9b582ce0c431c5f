"""Hugging Face's own models: their folders in, ours out, and equal outputs. Needs the `compare` extra."""

import json
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_files import table

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.weights import store
from mae_jax.weights.export import export
from mae_jax.weights.heads import logits
from mae_jax.weights.opened import opened
from mae_jax.weights.store import open_weights

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", minversion="5.0")
    from safetensors.torch import load_file, save_file
    from transformers import (
        ViTConfig,
        ViTForImageClassification,
        ViTMAEConfig,
        ViTMAEForPreTraining,
        ViTMAEModel,
        ViTModel,
    )

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of which there are many
SMALL = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=12, patch_size=4
)
DECODER = dict(decoder_hidden_size=8, decoder_num_attention_heads=2, decoder_num_hidden_layers=1,
               decoder_intermediate_size=24, mask_ratio=0.5)  # fmt: skip
RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 12, 12, 3)).astype(np.float32)
NOISE = RNG.random((2, 9)).astype(np.float32)


def scrambled(model):
    """The model in eval mode with every parameter drawn, so that no zero hides a mistake; MAE's tables stand."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
        if "ViTMAE" in type(model).__name__:
            vit = getattr(model, "vit", model)
            vit.embeddings.position_embeddings.copy_(torch.tensor(table(16)))
        if hasattr(model, "decoder"):
            model.decoder.decoder_pos_embed.copy_(torch.tensor(table(8)))
    return model.eval()


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    """(ViTMAEForPreTraining of normalised pixels, its folder)."""
    model = scrambled(ViTMAEForPreTraining(ViTMAEConfig(**SMALL, **DECODER, norm_pix_loss=True, layer_norm_eps=1e-6)))
    path = tmp_path_factory.mktemp("hf") / "mae"
    model.save_pretrained(path)
    return model, path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """(ViTForImageClassification with named classes, its folder)."""
    labels = {0: "cat", 1: "dog", 2: "owl"}
    model = scrambled(
        ViTForImageClassification(ViTConfig(**SMALL, id2label=labels, label2id={v: k for k, v in labels.items()}))
    )
    path = tmp_path_factory.mktemp("hf") / "vit"
    model.save_pretrained(path)
    return model, path


def theirs(model, **kwargs):
    with torch.no_grad():
        return model(torch.tensor(IMAGE).permute(0, 3, 1, 2), **kwargs)


def close(ours, expected):
    np.testing.assert_allclose(np.asarray(ours), expected.numpy(), atol=1e-5, rtol=1e-5)


def encoded(o):
    return jax.jit(o.run.method.encode)(o.state["params"], o.rest, {"image": jnp.asarray(IMAGE)})


def test_pretraining_gives_their_loss_and_prediction(mae):
    model, path = mae
    o = opened(path)
    assert o.weights.kind == "pretraining" and o.weights.info["norm_pix"] is True
    assert o.run.method.positions == "sincos" and o.run.method.mask_ratio == 0.5
    out = theirs(model, noise=torch.tensor(NOISE))
    context = Context(jax.random.key(0), given={"mask": jnp.asarray(NOISE)})
    loss, aux = o.run.method.loss(o.state["params"], o.rest, {"image": jnp.asarray(IMAGE)}, context)
    close(aux.seen["pred"], out.logits)
    close(loss, out.loss)


def published_name(name):
    """The hub's files: transformers 5.24 saves the decoder's layers under another name than they were published."""
    return name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers.")


def memory_name(name):
    """The names that the models have in memory since transformers 5."""
    name = published_name(name).replace("vit.encoder.layer.", "vit.layers.")
    for old, new in {"attention.attention.query": "attention.q_proj", "attention.attention.key": "attention.k_proj",
                     "attention.attention.value": "attention.v_proj", "attention.output.dense": "attention.o_proj",
                     "intermediate.dense": "mlp.fc1"}.items():  # fmt: skip
        name = name.replace(old, new)
    return re.sub(r"(\d)\.output\.dense", r"\1.mlp.fc2", name)


@pytest.mark.parametrize("rename", [published_name, memory_name])
def test_every_spelling_of_their_names_is_the_same(rename, mae, tmp_path):
    model, path = mae
    tensors = {rename(name): x for name, x in load_file(path / "model.safetensors").items()}
    if rename is memory_name:
        assert set(tensors) == set(model.state_dict())
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    found, expected = open_weights(tmp_path), open_weights(path)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


def test_pytorch_bin(mae, tmp_path):
    _, path = mae
    torch.save(load_file(path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    jax.tree.map(np.testing.assert_array_equal, open_weights(tmp_path).params, open_weights(path).params)
    with pytest.raises(UserError, match="no config.json beside it"):
        open_weights(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("cls, config", [(ViTMAEModel, ViTMAEConfig), (ViTModel, ViTConfig)])
def test_encoders(cls, config, tmp_path):
    model = scrambled(cls(config(**SMALL)))
    model.save_pretrained(tmp_path / "e")
    o = opened(tmp_path / "e")
    assert o.weights.kind == "encoder" and ("pooler" in o.weights.info["left_out"]) == (cls is ViTModel)
    if cls is ViTModel:
        features = encoded(o)
        close(jnp.concatenate([features.prefix, features.normed], axis=1), theirs(model).last_hidden_state)
        export(o.weights, tmp_path / "back", "hf")
        again = ViTModel.from_pretrained(tmp_path / "back", add_pooling_layer=False)
        np.testing.assert_array_equal(again(torch.tensor(IMAGE).permute(0, 3, 1, 2)).last_hidden_state.detach(),
                                      theirs(model).last_hidden_state)  # fmt: skip


def test_a_classifier_gives_their_logits(classifier):
    model, path = classifier
    o = opened(path)
    assert o.weights.info["head"] == {"pool": "class", "count": 3, "classes": ["cat", "dog", "owl"]}
    assert o.weights.config["augment"]["mean"] == (0.5, 0.5, 0.5) and o.weights.info["colours"] == "assumed"
    close(logits(encoded(o), o.weights.head, "class", o.run.method.norm_eps), theirs(model).logits)


@pytest.mark.parametrize("which", ["mae", "classifier"])
def test_out_again_loads_whole_with_equal_outputs_and_bits(which, request, tmp_path):
    model, path = request.getfixturevalue(which)
    w = store.read(store.write(tmp_path / "n.safetensors", open_weights(path)))
    export(w, tmp_path / "out", "hf")
    again, report = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    kwargs = {"noise": torch.tensor(NOISE)} if which == "mae" else {}
    np.testing.assert_array_equal(theirs(again.eval(), **kwargs).logits, theirs(model, **kwargs).logits)
    for key, value in again.config.to_dict().items():
        if key not in ("_name_or_path", "transformers_version", "dtype"):
            assert value == model.config.to_dict()[key], key
    again.save_pretrained(tmp_path / "again")  # through their own writer, so that names are equal
    first, last = ((p / "model.safetensors").read_bytes() for p in (path, tmp_path / "again"))
    assert first == last
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == list(w.config["augment"]["mean"]) and processor["size"]["height"] == 12
    assert open_weights(tmp_path / "out").info["colours"] == "stated"


def test_no_bias_and_other_activations(tmp_path):
    config = ViTConfig(**SMALL, qkv_bias=False, hidden_act="gelu_pytorch_tanh")
    model = scrambled(ViTForImageClassification(config))
    model.save_pretrained(tmp_path / "v")
    o = opened(tmp_path / "v")
    assert "qkv has no bias" in str(o.weights.info["absent"])
    close(logits(encoded(o), o.weights.head, "class", 1e-12), theirs(model).logits)
    export(o.weights, tmp_path / "out", "hf")
    again, report = ViTForImageClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()) and again.config.qkv_bias is False


def test_a_model_made_from_scratch_by_transformers_5_has_no_positions(tmp_path):
    model = ViTMAEForPreTraining(ViTMAEConfig(**SMALL, **DECODER))
    if model.decoder.decoder_pos_embed.abs().max() > 0:
        pytest.skip("this transformers fills the decoder's table")
    model.save_pretrained(tmp_path / "v")
    with pytest.raises(UserError, match="all zeros .*made from scratch"):
        open_weights(tmp_path / "v")
