"""From leaves to what the loss reads: both paths, what views share, what costs nothing, what is refused."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_sample_image
from tiny_runs import tiny

from mae_jax import methods, modalities
from mae_jax.augment import crop, mixup
from mae_jax.augment.normalise import normalise
from mae_jax.config import resolve
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.data import transforms
from mae_jax.data.order import Draws
from mae_jax.methods.base import Leaf, Method
from mae_jax.schema import Augment
from mae_jax.train import inputs
from mae_jax.train.build import build
from mae_jax.train.feed import train_batches

SPEC = {"image": Leaf((32, 24, 3))}
TWO = {**SPEC, "image_2": Leaf((32, 24, 3))}
PAIR = {"image": Leaf((32, 32, 3)), "image_2": Leaf((16, 16, 3), crop_of="image", resample="lanczos", unit=True)}
PLAIN = dict(mean=(0.0,) * 3, std=(1.0,) * 3)
EVERYTHING = dict(
    flip=True, vertical_flip=True, colour_jitter=(0.4, 0.4, 0.2, 0.1), colour_jitter_p=0.8, grayscale=0.2, blur=0.3,
    solarize=0.2, noise=0.1, erase=0.4,
)  # fmt: skip


def context(step=0, rows=None, **given):
    return Context(jax.random.key(2), step, rows, given={k.replace("__", "/"): v for k, v in given.items()})


def no_draw(stream):
    raise AssertionError("a canvas has nothing random")


def on_device(spec, augment, batch, ctx):
    return jax.jit(lambda batch: inputs.on_device(spec, augment, batch, ctx))(batch)


def images(b, h=32, w=24, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (b, h, w, 3), np.uint8))


def canvas_batch(spec, augment, b=6):
    """(photos [b, 100, 80, 3], the batch that the host's share makes of them)."""
    photo = load_sample_image("flower.jpg")
    photos = np.stack([photo[10 * i : 100 + 10 * i, 20 * i : 80 + 20 * i] for i in range(b)])
    leaves = inputs.host_leaves(spec, augment, train=True)
    made = [{n + s: a for n, leaf in leaves.items() for s, a in leaf(n, {"image": p}, no_draw).items()} for p in photos]
    return photos, {name: jnp.asarray(np.stack([m[name] for m in made])) for name in made[0]}


def test_leaves_that_travel():
    device = Augment(where="device", canvas=(96, 128))
    assert inputs.batch_leaves(TWO, Augment()) == TWO
    canvas = {"image": Leaf((96, 128, 3), "uint8"), "image.extent": Leaf((4,), "int32")}
    assert inputs.batch_leaves(TWO, device) == canvas  # all views of a record are cut from one canvas
    other = {**TWO, "image_grey": Leaf((8, 8, 1)), "volume": Leaf((4, 4, 4, 1))}
    found = inputs.batch_leaves(other, device)
    assert found.keys() == {*canvas, "image_grey", "image_grey.extent", "volume"} and found["volume"] == other["volume"]
    assert found["image_grey"].shape == (96, 128, 1)
    for spec in (TWO, other):  # the host makes what the device expects, and evaluation's are the spec's
        names = {n + s for n in inputs.host_leaves(spec, device, True) for s in ("", ".extent")}
        assert {*inputs.batch_leaves(spec, device)} <= names
        assert inputs.host_leaves(spec, device, False) == inputs.host_leaves(spec, Augment(), False)


@pytest.mark.parametrize("canvas", [(112, 96), (50, 50)], ids=["whole", "shrunken"])
def test_device_path_is_the_host_path(canvas):
    augment = Augment(where="device", canvas=canvas, flip=False, **PLAIN)
    photos, batch = canvas_batch(SPEC, augment)
    assert {n: a.shape[1:] for n, a in batch.items()} == {
        n: leaf.shape for n, leaf in inputs.batch_leaves(SPEC, augment).items()
    }
    rng = np.random.default_rng(1)
    tries, place = (jnp.asarray(rng.random(s, np.float32)) for s in ((6, 10, 2), (6, 2)))
    found = on_device(SPEC, augment, batch, context(augment__crop__image=tries, augment__place__image=place))
    assert found.keys() == {"image"} and found["image"].shape == (6, 32, 24, 3)
    boxes = jax.jit(lambda *x: crop.random_box(*x, (0.2, 1.0), (3 / 4, 4 / 3)))
    boxes = np.asarray(boxes(batch["image.extent"][:, :2], tries, place), int)
    for i, box in enumerate(boxes):
        expected = transforms.resize(transforms.crop(photos[i], tuple(map(int, box))), (32, 24)) / 255
        error = np.sqrt(np.mean((np.asarray(found["image"][i]) - expected) ** 2))
        assert error < (10 ** (-50 / 20) if canvas[0] > 100 else 0.03)


def test_without_a_context_canvases_give_the_evaluation_crop():
    augment = Augment(where="device", canvas=(112, 96), **PLAIN, **EVERYTHING)
    photos, batch = canvas_batch(SPEC, augment)
    found = on_device(SPEC, augment, batch, None)["image"]
    host = inputs.host_leaves(SPEC, augment, train=False)["image"]
    expected = np.stack([host("image", {"image": p}, np.random.default_rng) for p in photos]) / 255
    np.testing.assert_allclose(found, expected, atol=1.01 / 255)
    as_host = inputs.on_device(SPEC, augment, {"image": jnp.asarray(255 * expected, jnp.uint8)}, None)["image"]
    np.testing.assert_allclose(found, as_host, atol=2.01 / 255)


def test_a_crop_of_repeats_box_flip_and_colours_and_views_draw_for_themselves():
    augment = Augment(where="device", canvas=(112, 96), colour_jitter=(0.4, 0.4, 0.4, 0.1), vertical_flip=True,
                      quarter_turns=True, **PLAIN)  # fmt: skip
    _, batch = canvas_batch(PAIR, augment)
    found = on_device(PAIR, augment, batch, context())
    half = jax.image.resize(found["image"], (6, 16, 16, 3), "linear")  # antialiased
    assert np.sqrt(np.mean((half - found["image_2"]) ** 2)) < 0.03
    plain = Augment(where="device", canvas=(112, 96), **PLAIN)
    two = on_device(TWO, plain, batch, context())
    assert np.sqrt(np.mean((two["image"] - two["image_2"]) ** 2, (1, 2, 3))).min() > 0.03


def test_colour_views_names_whose_colours_change():
    lut = Augment(colour_views=("image_2",), colour_jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.5, solarize=0.5,
                  one_of=True, **PLAIN)  # fmt: skip
    batch = {"image": images(8), "image_2": images(8)}
    found = on_device(TWO, lut, batch, context())
    np.testing.assert_array_equal(found["image"], normalise(batch["image"], lut.mean, lut.std))
    x = np.asarray(found["image_2"])
    grey = (np.ptp(x, axis=-1) < 1e-6).all((1, 2))
    assert 0 < grey.sum() < 8 and (x[~grey] <= 0.5 + 1e-6).all()  # else solarised: nothing above the middle


def test_what_is_off_is_not_in_the_program():
    def plain(image):
        return normalise(image, Augment.mean, Augment.std)

    def program(**keys):
        ctx = context()
        return str(jax.make_jaxpr(lambda x: inputs.on_device(SPEC, Augment(**keys), {"image": x}, ctx))(images(4)))

    assert program() == str(jax.make_jaxpr(plain)(images(4)))
    for key, value in EVERYTHING.items():
        if key in ("flip", "colour_jitter_p"):  # the host's, and of the jitter
            continue
        assert "random_bits" in program(**{key: value}), key


def test_eight_devices_are_one_and_nothing_moves():
    augment = Augment(where="device", canvas=(112, 96), **EVERYTHING)
    _, batch = canvas_batch(SPEC, augment, 16)
    rows, found = jnp.arange(16), {}
    for n in (1, 8):
        mesh = jax.make_mesh((n,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:n])
        lies = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        run = lambda batch, rows: inputs.on_device(SPEC, augment, batch, context(3, rows))["image"]
        compiled = jax.jit(run, in_shardings=lies, out_shardings=lies).lower(batch, rows).compile()
        found[n] = np.asarray(compiled(*jax.device_put((batch, rows), lies)))
        moved = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|gather"
        assert not re.search(rf" ({moved})(-start)?\(", compiled.as_text())
    np.testing.assert_allclose(found[8], found[1], atol=1e-5)
    assert len({x.tobytes() for x in found[1]}) == 16


def test_mixing_and_its_targets():
    labels = jnp.arange(6)
    batch = {"image": images(6), "image_2": images(6, seed=1)}
    spec = TWO | {"label": Leaf((), "int32")}
    augment = Augment(mixup=0.8, cutmix=1.0, **PLAIN)
    plain = inputs.on_device(TWO, Augment(**PLAIN), batch, None)

    @jax.jit
    def run(step):
        drawn = mixup.draw(context(step).key("augment/mix"), (32, 24), mixup_alpha=0.8, cutmix_alpha=1.0)
        mixed = inputs.on_device(spec, augment, batch | {"label": labels}, context(step))
        targets = mixup.soft_targets(labels, 6, 0.1, mixed["label_share"], mixed["label_partner"])
        expected = {name: mixup.mix(plain[name], labels, drawn, classes=6, smoothing=0.1) for name in TWO}
        return drawn, (mixed, targets), inputs.on_device(TWO, augment, batch, context(step)), expected

    kinds = set()
    for step in range(6):
        drawn, (found, targets), alone, expected = jax.device_get(run(step))
        kinds.add(bool(drawn.use_cutmix))
        for name in TWO:
            np.testing.assert_allclose(found[name], expected[name][0], atol=1e-6)
            np.testing.assert_allclose(alone[name], expected[name][0], atol=1e-6)
            np.testing.assert_allclose(targets, expected[name][1], atol=1e-6)
    assert kinds == {True, False}
    np.testing.assert_array_equal(inputs.on_device(TWO, augment, batch, None)["image"], plain["image"])
    assert "label_share" not in inputs.on_device(spec, Augment(**PLAIN), batch | {"label": labels}, context())


def section(**keys) -> Augment:
    """The section as `resolve` makes it of these keys."""
    own = {key: x for key, x in keys.items() if modalities.kind_of(key)}
    return Augment(**{key: x for key, x in keys.items() if key not in own}, options=own)


def test_volumes_change_in_training_only_and_are_cut_by_the_host():
    spec = {"volume": Leaf((4, 4, 6, 1))}
    augment = section(
        volume_crop=0.75, volume_flip=0.5, volume_turn=0.3, volume_scale=(0.1, 0.5), volume_shift=(0.1, 1)
    )
    leaves = [inputs.host_leaves(spec, augment, train)["volume"] for train in (True, False)]
    assert [leaf.positive for leaf in leaves] == [0.75, None] and inputs.batch_leaves(spec, augment) == spec
    x = jnp.asarray(np.random.default_rng(0).random((5, 4, 4, 6, 1), np.float32))
    np.testing.assert_array_equal(inputs.on_device(spec, augment, {"volume": x}, None)["volume"], x)
    found = on_device(spec, augment, {"volume": x}, context())["volume"]
    assert (np.abs(found - x).max((1, 2, 3, 4)) > 1e-3).all()
    ctx = context()
    off = jax.make_jaxpr(lambda x: inputs.on_device(spec, Augment(), {"volume": x}, ctx)["volume"])(x)
    assert not off.eqns


@pytest.mark.parametrize(
    "method, options, message",
    [
        ("mae", dict(grayscale=1.2), r"augment.grayscale=1.2: a probability"),
        ("mae", dict(mixup=-0.1), "augment.mixup=-0.1: at least 0"),
        ("mae", dict(colour_jitter=(0, 0, 0, 0.6)), "a hue of 0..0.5 turns"),
        ("mae", dict(one_of=True, grayscale=0.6, blur=0.6), "add up to more than 1"),
        ("mae", dict(colour_views=("image2",)), "names 'image2', which is no image here. Did you mean 'image'"),
        ("cae", dict(colour_views=("image_2",)), "repeats 'image'"),
        ("mae", dict(volume_flip=0.5), r"augment.volume_flip=0.5 changes a leaf 'volume', but 'mae' reads image"),
        ("mae", dict(volume_crop=0.0), "augment.volume_crop=0.0 changes a leaf 'volume'"),
        ("hiendmae", dict(volume_flip=1.5), "augment.volume_flip=1.5: a probability is at least 0 and at most 1"),
        ("hiendmae", dict(volume_scale=(-1.0, 0.5)), "augment.volume_scale=.*a strength of at least 0"),
        ("hiendmae", dict(solarize=0.5), "augment.solarize=0.5 changes a leaf 'image', but 'hiendmae' reads volume"),
        ("hiendmae", dict(where="device"), "'hiendmae' reads none: set 'host'"),
        ("graphmae", dict(vertical_flip=True), "augment.vertical_flip=True changes a leaf 'image'"),
        ("croma", dict(grayscale=0.1, normalise="batch"), "needs red, green and blue, but .* 'image' of 14"),
        ("croma", dict(colour_jitter=(0, 0.1, 0, 0), normalise="batch"), "colour_jitter=.* needs red"),
        ("cae", dict(cutmix=1.0), "augment.cutmix=1.0 cuts one box out of all images"),
        ("mae", dict(where="device", randaugment="rand-m9"), "augment.randaugment='rand-m9'.* the host"),
        ("mae", dict(where="device", canvas=(0, 9)), "at least 1 pixel"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_paragraph(method, options, message):
    with pytest.raises(UserError, match=message) as error:
        inputs.check(methods.get(method)(), section(**options))
    assert "\n" not in str(error.value)


def test_shapes_that_cannot_turn_are_refused():
    wide = methods.get("mae")(image_size=(32, 64))
    with pytest.raises(UserError, match="of 32 x 64: make method.image_size a square"):
        inputs.check(wide, Augment(quarter_turns=True))
    with pytest.raises(UserError, match="volumes of 16 x 32"):
        inputs.check(methods.get("hiendmae")(volume_size=(16, 32, 16), patch=8), section(volume_turn=0.3))
    inputs.check(methods.get("mae")(channels=1), Augment(mean=(0.5,), std=(0.5,), colour_jitter=(0.4, 0.4, 0, 0)))


def test_a_run_trains_from_canvases():
    """Source to step: the same records, by two paths whose boxes are drawn elsewhere, and a finite loss from both."""
    first = {}
    for where in ("host", "device"):
        config = tiny(f"augment.where={where}", "augment.canvas=(12, 16)", "augment.flip=True", "train.steps=2")
        run = build(config, jax.devices()[:2])
        with train_batches(run, run.open("train"), start=0) as batches:
            batch = run.put(next(batches))
        first[where] = batch
        _, metrics = run.step(run.init(), {}, batch)
        assert np.isfinite(metrics["loss"])
    assert {n: x.shape for n, x in first["device"].items()} == {"image": (16, 12, 16, 1), "image.extent": (16, 4)}
    assert (np.asarray(first["device"]["image.extent"]) == 8).all() and first["host"]["image"].shape == (16, 8, 8, 1)


def test_a_modality_is_a_file_of_its_own(monkeypatch):
    """A kind that the package does not know: its keys, host and device halves, what travels, pictures and votes."""
    monkeypatch.setattr(modalities, "kinds", lambda: ["ramp", "volume"])
    known = modalities.get
    monkeypatch.setattr(modalities, "get", lambda kind: Ramp if kind == "ramp" else known(kind))
    spec = {"image": SPEC["image"], "ramp_a": Leaf((4,)), "volume": Leaf((4, 4, 6, 1))}
    config = resolve({"method": {"name": f"{__file__}:Ramps"}, "augment": {"ramp_gain": 3}})
    assert config.augment.options["ramp_gain"] == 3.0 and config.augment.options["volume_crop"] is None
    assert resolve(config.to_dict()).augment == config.augment
    assert set(inputs.batch_leaves(spec, config.augment)) == {"image", "ramp_a.start", "volume"}
    made = inputs.host_leaves(spec, config.augment, True)["ramp_a"]("ramp_a", {"ramp": 2.0}, Draws(0, 0))
    batch = {"ramp_a.start": jnp.asarray(made[".start"])[None]}
    assert inputs.on_device(spec, config.augment, batch, None)["ramp_a"].tolist() == [[6.0, 9.0, 12.0, 15.0]]
    assert inputs.colours({"ramp_a": Leaf((4,))}, config.augment) == ((0.5,), (0.25,))
    assert inputs.vote_views(spec, config.augment) == 5
    assert modalities.tuned(config.augment) == {"ramp_gain": 3.0, "ramp_votes": 1, "volume_crop": None}
    assert resolve({"method": {"name": "mae"}}).augment.options == {}


def test_what_the_views_of_a_record_share_is_drawn_once():
    three = [Draws(7, position, 3).record(1).random() for position in range(6)]
    assert len(set(three[:3])) == len(set(three[3:])) == 1 and len(set(three)) == 2
    assert len({Draws(7, position, 3)(1).random() for position in range(6)} | set(three)) == 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ramp(modalities.Modality):
    kind = "ramp"
    kept = ("gain",)
    tuned = {"votes": 1}
    gain: float = 2.0
    votes: int = 5

    def host(self, name, leaf, train, stream, view=0):
        return lambda name, record, draw: {".start": np.float32(record["ramp"])}

    def travels(self, name, leaf):
        return {name + ".start": Leaf(())}

    def device(self, name, leaf, batch, ctx):
        return self.gain * (batch[name + ".start"][:, None] + jnp.arange(leaf.shape[0])[None])

    def views(self, name, leaf):
        return self.votes

    def colours(self, leaf):
        return (0.5,), (0.25,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ramps(methods.Method):
    name = "ramps"

    @property
    def batch_spec(self):
        return {"ramp_a": Leaf((4,)), "volume": Leaf((4, 4, 6, 1))}


def test_what_floats_say_of_the_normalisation():
    """Of images that come as floats; not of integers, of what stays in [0, 1], of views that share another's canvas."""
    spec = PAIR | {"image_3": Leaf((8, 8, 3), crop_of="image")}
    method = type("Reader", (Method,), {"batch_spec": spec})()
    counts = np.full((2, 8, 8, 3), 500.0, np.float32)
    augment = Augment(**PLAIN)
    assert [s.split("'")[1] for s in inputs.strange({"image": counts, "image_2": counts}, method, augment)] == ["image"]
    assert not inputs.strange({"image": counts.astype(np.uint16)}, method, augment)
    assert not inputs.strange({"image": counts}, method, dataclasses.replace(augment, normalise="batch"))
    assert not inputs.strange({"image": counts}, method, dataclasses.replace(augment, mean=(500.0,) * 3))
