"""Fine-tuning of video encoders: the authors' classifier, dropout before the head, recipes and configs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_finetune import GOLDEN, REST

from mae_jax.config import load, resolve
from mae_jax.core.keys import Context
from mae_jax.interop.golden import read
from mae_jax.interop.names import import_weights
from mae_jax.interop.videomae import classifier_rules, clip
from mae_jax.methods.videomae import VideoMAE
from mae_jax.schema import Optim
from mae_jax.train.schedules import learning_rate
from mae_jax.transfer.finetune import FineTune
from mae_jax.transfer.recipes import RECIPES, choose

DECODER = dict(decoder_dim=4, decoder_depth=1, decoder_heads=1)
ROOT = GOLDEN.parents[1]


@pytest.fixture(scope="module")
def authors():
    """(method, params, batch, golden file) of VideoMAE's classifier as a `FineTune`."""
    golden = read(GOLDEN / "videomae" / "classifier.npz")
    c = golden.config
    inner = VideoMAE(
        frames=c["all_frames"], image_size=tuple(c["img_size"]), tubelet=c["tubelet_size"], patch=c["patch_size"],
        dim=c["embed_dim"], depth=c["depth"], heads=c["num_heads"], mask_ratio=0.5, **DECODER,
    )  # fmt: skip
    method = FineTune(inner=inner, classes=c["num_classes"])
    method.check()
    batch = {"video": clip(golden), "label": jnp.asarray(golden.input("label"))}
    template, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    params, _ = import_weights(classifier_rules(3, inner.cut), golden.weights, template)
    return method, params, batch, golden


def test_the_authors_classifier(authors):
    """Without the encoder's last norm, mean of the tokens, a norm of its own, head: through `encode` alone."""
    method, params, batch, golden = authors
    value, aux = jax.jit(lambda p: method.loss(p, REST, batch, Context(jax.random.key(0), train=False)))(params)
    np.testing.assert_allclose(value, golden.outputs["loss"], rtol=1e-5)
    np.testing.assert_allclose(aux.seen["logits"], golden.outputs["logits"], atol=1e-5)
    np.testing.assert_allclose(aux.seen["features"], golden.outputs["feature"], atol=1e-5)
    assert "norm" not in params["encoder"] and "decoder" not in params


def test_dropout_before_the_head_in_training_alone(authors):
    method, params, batch, _ = authors
    dropped = dataclasses.replace(method, dropout=0.5)

    @jax.jit
    def features(step):
        context = Context(jax.random.key(0), step)
        return dropped.logits(params, REST, batch, ctx=context, train=True)[1], dropped.logits(params, REST, batch)[1]

    (some, plain), (others, _) = features(0), features(1)
    gone = np.asarray(some) == 0
    assert 0.3 < gone.mean() < 0.7 and (gone != (np.asarray(others) == 0)).any()
    np.testing.assert_allclose(np.asarray(some)[~gone], 2 * np.asarray(plain)[~gone], rtol=1e-5)
    assert not (np.asarray(plain) == 0).any()


def test_recipes_count_samples_where_the_authors_count_videos():
    """Sheet: K400 B after 1600 epochs: rate 5e-4 per 256 videos, 75 epochs, each video twice; ViT-H: last rate 1e-5."""
    long, h = RECIPES["videomae_b_k400_long"], RECIPES["videomae_h_k400"]
    assert (long["batch"], long["epochs"], long["warmup"]) == (1024, 150, 10)
    peak = long["learning_rate"] * long["batch"] / 256
    assert peak == pytest.approx(5e-4 * 512 / 256) and long["end_rate"] == pytest.approx(1e-6 * 512 / 256)
    assert h["end_rate"] == pytest.approx(1e-5 * 512 / 256) and (h["drop_path"], h["dropout"]) == (0.2, 0.5)
    g = RECIPES["videomaev2_g_k710"]
    assert (g["layer_decay"], g["weight_decay"], g["batch"], g["drop_path"]) == (0.9, 0.1, 192, 0.3)
    assert choose("auto", 1280, (224, 224, 3), video=True) == "videomae_h_k400"
    assert choose("auto", 384, (224, 224, 3), video=True) == "videomae_s_k400"
    assert choose("auto", 384, (16, 16, 3), video=True) == "tiny"


def test_every_published_variant_of_the_configs():
    found = set()
    for name in [n for n in RECIPES if n.startswith("video")]:
        folder, *words = name.split("_")
        raw, _ = load(str(ROOT / f"configs/{folder}/finetune.py") + ":" + ",".join(words))
        config = resolve(raw, ["data.path=/data"])
        found.add(config.transfer.recipe)
        # what the recipe's sums took for the views of each video
        assert RECIPES[name]["warmup"] in (config.data.repeats, 5 * config.data.repeats)
        assert config.augment.options["video_flip"] == ("ssv2" not in name)
    assert len(found) == 21
    for arg, steps, ratio in (("", 800 * 117, 0.9), ("ssv2,2400", 2400 * 82, 0.9), ("ucf101", 3200 * 49, 0.75)):
        config = resolve(load(str(ROOT / "configs/videomae/vit_b16.py") + f":{arg}")[0], ["data.path=/data"])
        assert config.train.steps == steps and config.method["mask_ratio"] == ratio
        assert config.optim.learning_rate * config.optim.end_share == pytest.approx(1e-5)


def test_views_of_a_clip_do_not_raise_the_rate():
    """Sheet: the rate of VideoMAE V2 is multiplied by the videos of a batch, a quarter of its samples."""
    config = resolve(load(str(ROOT / "configs/videomaev2/vit_g14.py"))[0], ["data.path=/data"])
    assert config.data.repeats == 4 and config.train.batch == 4 * 2048 and config.optim.clip == 0.02
    assert config.optim.learning_rate * config.train.batch / 256 == pytest.approx(6e-4 * 2048 / 256)


def test_the_peak_of_the_pretraining_rate_comes_twice():
    """Their warm-up is numpy's linspace with both ends, and the cosine after it starts at the peak again."""
    rate = learning_rate(Optim(schedule="cosine_linspace", warmup=10, scaling="none", learning_rate=1.0), 256, 30)
    np.testing.assert_allclose([rate(i) for i in range(10)], np.linspace(0, 1, 10), rtol=1e-6)
    np.testing.assert_allclose([rate(10), rate(20)], [1.0, 0.5], rtol=1e-6)
