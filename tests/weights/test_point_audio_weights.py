"""Files of Point-MAE, Point-CMAE, Audio-MAE and Bird-MAE: random parameters under the official names, read back."""

import dataclasses

import jax
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.interop import birdmae, pointcmae, pointmae
from mae_jax.interop.names import export_weights
from mae_jax.methods.birdmae import BirdMAE
from mae_jax.methods.pointcmae import PointCMAE
from mae_jax.methods.pointmae import PointMAE
from mae_jax.tokens.positions import sincos, with_prefix
from mae_jax.train.build import sample_batch
from mae_jax.transfer import task
from mae_jax.weights import store
from mae_jax.weights.hints import Hints
from mae_jax.weights.layout import encoder_alone
from mae_jax.weights.opened import opened
from mae_jax.weights.published import read_published
from mae_jax.weights.store import open_weights
from mae_jax.weights.uses import describe

HINTS = Hints(heads=2, decoder_heads=2)
SIZES = dict(dim=16, depth=1, heads=2, mlp_ratio=2.0, decoder_depth=1, decoder_heads=2)
POINT = dict(group_points=8, **SIZES)
RANDOM = np.random.default_rng(0)
CLOUDS = RANDOM.standard_normal((2, 1024, 3)).astype(np.float32)
# The smallest grids: 128 mel bins of patches of 16 are 8 rows.
BIRD = BirdMAE(spectrogram_size=(256, 128), decoder_dim=8, decoder_mlp_ratio=2.0, **SIZES)
AUDIO = dataclasses.replace(BIRD, decoder_blocks="window", mask_ratio=0.8)


def drawn(method):
    """Random {"params", "stats"}; variances are positive."""
    params, stats = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))

    def one(path, s):
        x = 0.3 * RANDOM.standard_normal(s.shape)
        return np.asarray(np.abs(x) + 0.5 if path.endswith("var") else x, np.float32)

    return tree.map_with_path(one, {"params": params, "stats": stats})


def write(path, tensors):
    np.savez(path, **tensors)
    return path


def point_tensors(rules, found):
    tensors = export_weights(rules, found["params"] | {"stats": found["stats"]})
    counters = {n.replace("running_mean", "num_batches_tracked"): np.int64(7) for n in tensors if "running_mean" in n}
    return {f"module.{name}": x for name, x in (tensors | counters).items()}


def equal(found, wanted):
    found, wanted = tree.flatten(found), tree.flatten(wanted)
    assert set(found) == set(wanted)
    for path, x in wanted.items():
        np.testing.assert_array_equal(found[path], x, err_msg=path)


# Points ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def point_file(tmp_path_factory):
    found = drawn(PointMAE(**POINT))
    tensors = point_tensors(pointmae.pretraining_rules(), found)
    return write(tmp_path_factory.mktemp("points") / "pretrain.npz", tensors), found, tensors


def test_names_are_point_maes(point_file):
    assert {
        "module.mask_token", "module.MAE_encoder.encoder.first_conv.1.running_var", "module.increase_dim.0.weight",
        "module.MAE_encoder.encoder.second_conv.1.num_batches_tracked", "module.decoder_pos_embed.2.bias",
        "module.MAE_encoder.blocks.blocks.0.attn.qkv.weight", "module.MAE_decoder.norm.weight",
        "module.MAE_encoder.pos_embed.0.weight", "module.MAE_encoder.norm.bias",
    } <= set(point_file[2])  # fmt: skip


def test_pretraining_is_read_with_its_statistics(point_file, tmp_path):
    o = opened(point_file[0], hints=HINTS)
    weights, method = o.weights, o.run.method
    assert weights.kind == "pretraining" and weights.info["family"] == "official Point-MAE"
    assert {key: getattr(method, key) for key in POINT} == POINT and (method.points, method.groups) == (1024, 64)
    equal({"params": weights.params, "stats": weights.stats}, point_file[1])
    assert weights.config["augment"] == {} and "norm_pix" not in weights.info
    assert "method.groups=64" in describe(weights) and "centres" in describe(weights)
    wanted = PointMAE(**POINT)
    encode = lambda m: jax.jit(m.encode)
    ours = encode(method)(o.state["params"], o.rest, {"points": CLOUDS})
    theirs = encode(wanted)(point_file[1]["params"], {"stats": point_file[1]["stats"]}, {"points": CLOUDS})
    np.testing.assert_array_equal(ours.normed, theirs.normed)
    again = store.read(store.write(tmp_path / "n.safetensors", weights))
    equal(again.stats, point_file[1]["stats"])


def test_the_encoder_alone_keeps_its_tokens(point_file):
    weights = open_weights(point_file[0], hints=dataclasses.replace(HINTS, encoder_only=True))
    equal(weights.params, {part: point_file[1]["params"][part] for part in ("tokenizer", "encoder")})
    equal(weights.stats, point_file[1]["stats"])
    assert weights.kind == "encoder" and weights.config["method"]["group_points"] == 8  # the decoder told
    equal(encoder_alone(open_weights(point_file[0], hints=HINTS)).params, weights.params)


def test_a_torch_checkpoint_holds_it_under_base_model(point_file, tmp_path):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(np.array(x)) for name, x in point_file[2].items()}
    torch.save({"base_model": state, "epoch": 300, "metrics": {"acc": 0.0}}, tmp_path / "pretrain.pth")
    equal(read_published(tmp_path / "pretrain.pth", HINTS).params, point_file[1]["params"])


def test_point_cmae_has_two_decoders(tmp_path):
    found = drawn(PointCMAE(**POINT))
    weights = read_published(write(tmp_path / "p.npz", point_tensors(pointcmae.pretraining_rules(), found)), HINTS)
    assert weights.config["method"]["name"] == "pointcmae" and weights.kind == "pretraining"
    equal({"params": weights.params, "stats": weights.stats}, found)
    alone = read_published(tmp_path / "p.npz", dataclasses.replace(HINTS, encoder_only=True))
    assert set(alone.params) == {"tokenizer", "encoder"} == set(alone.stats) | {"encoder"}


def point_classifier(linear, classes):
    """(method, its arrays, official tensors) of a fine-tuned model."""
    config = dict(trans_dim=16, depth=1, num_heads=2, group_size=8, num_group=4, cls_dim=classes, encoder_dims=16)
    method = pointmae.classifier_method(config | {"type": "linear" if linear else "full"}, 64)
    method = dataclasses.replace(method, inner=dataclasses.replace(method.inner, mlp_ratio=2.0))
    found, rules = drawn(method), pointmae.classifier_rules()
    if linear:
        rules = [*rules, *pointmae.parts.linear("cls_head_finetune.0", "head")]
    return method, found, point_tensors(rules, found)


MADE = ["method.points=64", "method.groups=4", "method.group_points=8", "data.source=made_points", "data.count=64",
        "data.length=10", "augment.points_unit_sphere=False", "augment.points_test_sample=first"]  # fmt: skip


@pytest.mark.parametrize("linear", [False, True])
def test_point_classifiers_are_scored_by_their_own_head(linear, tmp_path):
    method, found, tensors = point_classifier(linear, 5)
    assert ("module.cls_head_finetune.8.weight" in tensors) != linear
    o = opened(write(tmp_path / "best.npz", tensors), MADE, hints=HINTS)
    weights = o.weights
    assert weights.kind == "classifier" and "5 classes" in describe(weights)
    equal(weights.params | weights.head["params"], found["params"])
    equal(weights.stats, found["stats"])
    test = o.run.open("test")
    score = task.classify_protocol(o, o.run.open("train"), test)
    clouds = np.stack([test[i]["points"] for i in range(len(test))])
    rest = {"stats": found["stats"], "ema": {}, "frozen": {}}
    logits = jax.jit(method.logits)(found["params"], rest, {"points": clouds})[0]
    loss = -jax.nn.log_softmax(logits)[np.arange(len(test)), test.labels].mean()
    assert score.details["loss"] == pytest.approx(float(loss), rel=1e-4)


def test_other_models_on_this_encoder_are_refused(tmp_path):
    tensors = point_classifier(True, 40)[2]
    parts = {name: x for name, x in tensors.items() if "cls_" not in name}
    path = write(tmp_path / "parts.npz", parts | {"module.label_conv.0.weight": np.zeros((4, 16, 1))})
    with pytest.raises(UserError, match="label_conv"):
        read_published(path, HINTS)
    alone = read_published(path, dataclasses.replace(HINTS, encoder_only=True))
    assert alone.kind == "encoder" and not alone.config["method"]["class_token"]
    odd = {name.replace("finetune.0", "finetune.3"): x for name, x in tensors.items()}
    with pytest.raises(UserError, match="one linear layer"):
        read_published(write(tmp_path / "odd.npz", odd), HINTS)
    with pytest.raises(UserError, match="image-size"):
        read_published(write(tmp_path / "c.npz", tensors), dataclasses.replace(HINTS, image_size=(224, 224)))
    scanned = read_published(write(tmp_path / "s.npz", point_classifier(True, 15)[2]), HINTS).config["method"]
    assert (scanned["points"], scanned["groups"]) == (2048, 128)  # ScanObjectNN has 15 classes
    with pytest.raises(UserError, match="norm-pix"):
        read_published(tmp_path / "c.npz", dataclasses.replace(HINTS, norm_pix=True))


# Spectrograms ---------------------------------------------------------------------------------------------------------


def audio_tensors(method, rules):
    found = drawn(method)
    return export_weights(rules, found["params"], constants=True), found["params"]


@pytest.fixture(scope="module")
def audio_file(tmp_path_factory):
    tensors, params = audio_tensors(AUDIO, birdmae.audiomae_rules(AUDIO))
    return write(tmp_path_factory.mktemp("audio") / "pretrained.npz", tensors), params, tensors


TOLD = (
    "spectrogram_size", "stride", "channels", "transposed", "learned_positions", "decoder_blocks", "decoder_dim",
    "decoder_learned_positions", "window", "shift", "norm_pix", "mask_ratio", *SIZES,
)  # fmt: skip


def same_method(weights, method):
    """The file's method is `method`, but for what no file says."""
    found = weights.config["method"]
    assert found["name"] == "birdmae"
    for key in TOLD:
        assert found[key] == getattr(method, key), key


def test_audio_mae_is_read_and_encodes(audio_file):
    assert {"cls_token", "patch_embed.proj.weight", "decoder_blocks.0.attn.tau", "decoder_pos_embed"} <= set(
        audio_file[2]
    )
    o = opened(audio_file[0], hints=HINTS)
    same_method(o.weights, AUDIO)
    equal(o.weights.params, audio_file[1])
    assert o.weights.info["positions"] == "turned" and o.config.augment.options["spectrogram_mean"] == -4.2677393
    assert "spectrogram_size (256, 128)" in describe(o.weights) and "ASSUMED" in describe(o.weights)
    batch = {"spectrogram": RANDOM.standard_normal((2, 256, 128, 1)).astype(np.float32)}
    rest = {"stats": {}, "ema": {}, "frozen": {}}
    ours, theirs = (
        jax.jit(m.encode)(p, rest, batch) for m, p in ((o.run.method, o.state["params"]), (AUDIO, audio_file[1]))
    )
    np.testing.assert_array_equal(ours.normed, theirs.normed)


@pytest.mark.parametrize("bird", [True, False])
def test_plain_decoders(bird, tmp_path):
    method = BIRD if bird else dataclasses.replace(BIRD, mask_ratio=0.8)
    method = dataclasses.replace(method, mask_ratio=0.8, decoder_learned_positions=bird)
    tensors, params = audio_tensors(method, (birdmae.birdmae_rules if bird else birdmae.audiomae_rules)(method))
    weights = read_published(write(tmp_path / "b.npz", tensors), HINTS)
    same_method(weights, method)
    equal(weights.params, params)
    assert weights.info["family"] == ("official Bird-MAE" if bird else "official Audio-MAE")
    assert weights.config["augment"]["spectrogram_mean"] == (-7.2 if bird else -4.2677393)
    alone = read_published(tmp_path / "b.npz", Hints(heads=2, encoder_only=True))  # by the table alone, without prefix
    equal(alone.params, {"encoder": params["encoder"]})


@pytest.mark.parametrize("learned", [False, True])
def test_audio_classifiers(learned, tmp_path):
    inner = dataclasses.replace(BIRD, learned_positions=learned)
    found = drawn(inner)["params"]["encoder"]
    found.pop("norm")
    vector = RANDOM.standard_normal(16).astype(np.float32)
    head = {
        "head": {"kernel": np.tile(vector[:, None], 6), "bias": vector[:6]},
        "fc_norm": {"scale": vector, "bias": vector},
    }
    tensors = export_weights(birdmae.classifier_rules(inner), {"encoder": found} | head, constants=True)
    path = write(tmp_path / "finetuned.npz", tensors)
    if learned:  # 128 rows are 16 x 8, or a grey image of another grid
        with pytest.raises(UserError, match="128 learned positions"):
            read_published(path, HINTS)
    hints = dataclasses.replace(HINTS, image_size=(256, 128)) if learned else HINTS
    weights = opened(path, hints=hints).weights
    assert weights.kind == "classifier" and weights.info["head"] == {"pool": "mean", "count": 6, "classes": []}
    assert weights.config["method"]["learned_positions"] is learned
    equal(weights.head["params"], head)
    assert (weights.params["encoder"].pop("norm")["scale"] == 1).all()
    equal(weights.params["encoder"], found)


def replaced(tensors, grid, **more):
    return tensors | {"pos_embed": with_prefix(sincos(16, grid), 1)[None]} | more


def plain(tensors):
    """An encoder alone, which names do not tell from one of grey images."""
    return {name: x for name, x in tensors.items() if not name.startswith(("decoder", "mask_token"))}


def test_overlapped_patches_have_their_own_grid(audio_file, tmp_path):
    path = write(tmp_path / "o.npz", replaced(plain(audio_file[2]), (50, 12)))
    weights = read_published(path, HINTS)
    method = weights.config["method"]
    assert (method["spectrogram_size"], method["stride"], method["transposed"]) == ((512, 128), (10, 10), False)


def test_what_cannot_be_told_is_asked_for(audio_file, tmp_path):
    encoder = plain(audio_file[2])
    read = lambda tensors, size=None: read_published(
        write(tmp_path / "x.npz", tensors), dataclasses.replace(HINTS, image_size=size)
    )
    with pytest.raises(UserError, match="not that of 512 frames"):  # 16 x 8 by the table
        read(encoder, (512, 64))
    with pytest.raises(UserError, match="not those of 256 frames"):
        read(audio_file[2], (256, 256))
    with pytest.raises(UserError, match="image-size 256 128"):  # the other order
        read(encoder, (128, 256))
    # 256 positions are 16 x 16 of an image as well: not to be read as a learned table of one.
    for grid in ((4, 64), (64, 4)):
        with pytest.raises(UserError, match=f"{grid[0]} x {grid[1]}, for patches of one channel"):
            read(replaced(encoder, grid))
    assert read(replaced(encoder, (8, 32))).config["method"]["spectrogram_size"] == (512, 128)
    assert read(replaced(encoder, (4, 64)), (1024, 64)).config["method"]["spectrogram_size"] == (1024, 64)
    learned = encoder | {"pos_embed": RANDOM.standard_normal((1, 257, 16))}
    with pytest.raises(UserError, match="256 learned positions"):
        read(learned)
    assert read(learned, (512, 128)).config["method"]["name"] == "birdmae"
    for tensors, size in (
        (learned, (256, 256)),
        (replaced(encoder, (16, 16)), None),
        (replaced(encoder, (8, 8)), None),
    ):
        method = read(tensors, size).config["method"]  # images of one channel, as ever
        assert method["name"] == "mae" and method["channels"] == 1
    with pytest.raises(UserError, match="ppnet"):
        read(encoder | {"ppnet.last_layer.bias": np.zeros(3)})
