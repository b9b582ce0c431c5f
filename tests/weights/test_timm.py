"""timm's own plain ViTs: their files in, ours out, and equal outputs. Needs the `compare` extra."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_files import table

from mae_jax.core.errors import UserError
from mae_jax.weights import store
from mae_jax.weights.export import export
from mae_jax.weights.heads import logits
from mae_jax.weights.hints import Hints
from mae_jax.weights.opened import opened
from mae_jax.weights.store import open_weights

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    timm = pytest.importorskip("timm")
    from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of which there are many
SMALL = dict(img_size=12, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=3)
HINTS = Hints(heads=2)
IMAGE = np.random.default_rng(0).standard_normal((2, 12, 12, 3)).astype(np.float32)


def vit(**kwargs):
    """A plain ViT in eval mode with every parameter drawn."""
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224", **SMALL | dict(num_classes=5) | kwargs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model.eval()


def theirs(model):
    x = torch.tensor(IMAGE).permute(0, 3, 1, 2)
    with torch.no_grad():
        return model(x).numpy(), model.forward_features(x).numpy()


def ours(o):
    features = jax.jit(o.run.method.encode)(o.state["params"], o.rest, {"image": jnp.asarray(IMAGE)})
    return features, jnp.concatenate([features.prefix, features.normed], axis=1)


def close(a, b):
    np.testing.assert_allclose(np.asarray(a), b, atol=1e-5, rtol=1e-5)


CASES = {
    "class token": (dict(), "class", {}),
    "mean with fc_norm": (dict(global_pool="avg"), "mean", {}),
    "mean after the norm": (dict(global_pool="avg", fc_norm=False), "normed_mean", dict(pool="normed_mean")),
    "no class token": (dict(global_pool="avg", fc_norm=False, class_token=False), "normed_mean", {}),
    "no row for the class token": (dict(no_embed_class=True), "class", {}),
    "no qkv bias": (dict(qkv_bias=False), "class", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_classifiers_in_and_out(case, tmp_path):
    kwargs, pool, hints = CASES[case]
    model = vit(**kwargs)
    expected, _ = theirs(model)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    o = opened(tmp_path / "a.safetensors", hints=Hints(heads=2, **hints))
    assert o.weights.info["head"]["pool"] == pool and o.weights.info["head"]["count"] == 5
    close(logits(ours(o)[0], o.weights.head, pool), expected)
    w = store.read(store.write(tmp_path / "n.safetensors", o.weights))
    export(w, tmp_path / "out", "timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    np.testing.assert_allclose(theirs(again)[0], expected, atol=1e-6)
    if "no_embed_class" not in kwargs:
        found, first = load_file(tmp_path / "out" / "model.safetensors"), model.state_dict()
        assert found.keys() == first.keys() and all(torch.equal(found[name], first[name]) for name in first)
    read = open_weights(tmp_path / "out")  # with the config.json that was written
    assert read.info["head"]["pool"] == pool and read.info["colours"] == "stated"
    jax.tree.map(np.testing.assert_array_equal, read.params, w.params)


def test_an_encoder_of_mae(tmp_path):
    model = vit(num_classes=0)
    with torch.no_grad():
        model.pos_embed.copy_(torch.tensor(table(16)))
    torch.save({"model": model.state_dict()}, tmp_path / "a.pth")  # as facebookresearch/mae's files
    o = opened(tmp_path / "a.pth", hints=HINTS)
    assert o.run.method.positions == "sincos"
    close(ours(o)[1], theirs(model)[1])
    export(o.weights, tmp_path / "out", "timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    np.testing.assert_array_equal(theirs(again)[1], theirs(model)[1])
    save_file(model.state_dict(), tmp_path / "first.safetensors", {"format": "pt"})
    first, last = load_file(tmp_path / "first.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(first[name], last[name]) for name in {*first, *last})


def test_what_a_config_beside_the_file_says(tmp_path):
    model = vit(num_classes=5, global_pool="avg", fc_norm=False)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "vit_base_patch16_224",
        "global_pool": "avg",
        "model_args": {"num_heads": 2},
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "label_names": list("abcde"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    w = open_weights(tmp_path)
    assert w.info["head"] == {"pool": "normed_mean", "count": 5, "classes": list("abcde")}
    assert w.config["augment"] == {"mean": (0.5,) * 3, "std": (0.25,) * 3} and w.info["family"] == "timm"
    with pytest.raises(UserError, match="num_heads=2, and you say 4"):
        open_weights(tmp_path, hints=Hints(heads=4))


def test_attention_pooling_is_left_out_by_name(tmp_path):
    model = vit(global_pool="map", class_token=False)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    o = opened(tmp_path / "a.safetensors", hints=HINTS)
    assert o.weights.kind == "encoder" and "attn_pool, head" in o.weights.info["left_out"]
    close(ours(o)[1], theirs(model)[1])


def test_another_size_resamples_learned_positions_as_torch_does(tmp_path):
    model = vit()
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    o = opened(tmp_path / "a.safetensors", ["method.image_size=20"], hints=HINTS)
    table = model.pos_embed.detach()
    grid = torch.nn.functional.interpolate(
        table[:, 1:].reshape(1, 3, 3, 16).permute(0, 3, 1, 2), size=(5, 5), mode="bicubic", align_corners=False
    )  # facebookresearch/mae's and DeiT's, without antialiasing
    close(o.state["params"]["encoder"]["pos_embed"][0, 1:], grid.permute(0, 2, 3, 1).reshape(25, 16).numpy())
