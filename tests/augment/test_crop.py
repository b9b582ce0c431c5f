"""The device's crop against Pillow's resizing and the host's boxes; its layout against one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_image

from mae_jax.augment import crop as device
from mae_jax.core.keys import Context
from mae_jax.data import transforms

WINDOW = device.Window(transforms.SCALE, transforms.RATIO)
PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR,
          "lanczos": Image.Resampling.LANCZOS}  # fmt: skip


class Fixed(np.random.Generator):
    """Gives the numbers in [0, 1) that a device draw was made from."""

    def __new__(cls, *_):
        return super().__new__(cls, np.random.Philox(0))

    def __init__(self, tries, place):
        super().__init__(np.random.Philox(0))
        self.tries, self.place = iter(map(float, np.ravel(tries))), iter(map(float, place))

    def uniform(self, low, high):
        return low + next(self.tries) * (high - low)

    def integers(self, n):
        return min(int(next(self.place) * n), n - 1)


@pytest.fixture(scope="module")
def photo():
    return load_sample_image("china.jpg")[20:260, 100:420]  # 240 x 320


@pytest.fixture(scope="module")
def canvases(photo):
    """(canvas, extent) of six equal pictures on 256 x 352."""
    canvas = np.zeros((6, 256, 352, 3), np.uint8)
    canvas[:, :240, :320] = photo
    return jnp.asarray(canvas), jnp.tile(jnp.array([240, 320, 240, 320], jnp.int32), (6, 1))


def uniform(seed, b):
    rng = np.random.default_rng(seed)
    return tuple(
        map(jnp.asarray, (rng.random((b, 10, 2), np.float32), rng.random((b, 2), np.float32), rng.random(b) < 0.5))
    )


def crop(canvases, size, draws, window=WINDOW, interpolation="bicubic"):
    run = jax.jit(lambda canvas, extent, draws: device.crop(canvas, extent, size, window, draws, interpolation))
    return np.asarray(run(*canvases, draws))


def psnr(a, b):
    return 10 * np.log10(255**2 / np.maximum(np.mean((np.asarray(a, np.float64) - np.asarray(b)) ** 2), 1e-9))


random_box = jax.jit(lambda *x: device.random_box(*x, WINDOW.scale, WINDOW.ratio))


@pytest.mark.parametrize("interpolation", PILLOW)
def test_the_same_box_gives_pillows_picture(canvases, photo, interpolation):
    tries, place, flip = uniform(1, 6)
    size = (64, 96)
    found = crop(canvases, size, device.Draws(tries, place, flip), interpolation=interpolation)
    for i in range(6):
        box = transforms.crop_box(240, 320, Fixed(tries[i], place[i]))
        picture = Image.fromarray(transforms.crop(photo, box))
        # Pillow 13 may go down before across; the order is fixed here by two calls.
        across = picture.resize((96, picture.height), PILLOW[interpolation])
        expected = np.asarray(across.resize((96, 64), PILLOW[interpolation]))
        planes = [Image.fromarray(transforms.crop(photo, box)[..., c].astype(np.float32)) for c in range(3)]
        exact = np.stack([np.asarray(p.resize((96, 64), PILLOW[interpolation])) for p in planes], -1).clip(0, 255)
        if flip[i]:
            expected, exact = expected[:, ::-1], exact[:, ::-1]
        assert psnr(found[i], expected) > 65 and np.abs(np.asarray(found[i], int) - expected).max() <= 1
        assert psnr(found[i], exact) > 55  # rounding twice to whole numbers alone gives 56 to 57


def test_of_the_host_path(canvases, photo):
    tries, place, _ = uniform(2, 6)
    found = crop(canvases, (48, 48), device.Draws(tries, place))
    for i in range(6):
        box = transforms.crop_box(240, 320, Fixed(tries[i], place[i]))
        assert psnr(found[i], transforms.resize(transforms.crop(photo, box), (48, 48))) > 50


@pytest.mark.parametrize("bits, least", [(10, 58), (7, 46)], ids=["TF32", "bfloat16"])
def test_what_fewer_bits_in_the_weights_would_cost(canvases, photo, monkeypatch, bits, least):
    """TF32 stays above what rounding to whole numbers costs (57 dB), one bfloat16 pass does not: PRECISION is HIGH."""
    plain = device.weights

    def rounded(*arguments):
        mantissa, exponent = jnp.frexp(plain(*arguments))
        return jnp.ldexp(jnp.round(mantissa * 2 ** (bits + 1)), exponent - bits - 1)

    tries, place, _ = uniform(3, 6)
    expected = crop(canvases, (64, 64), device.Draws(tries, place))
    monkeypatch.setattr(device, "weights", rounded)
    found = crop(canvases, (64, 64), device.Draws(tries, place))
    assert least < psnr(found, expected) < least + 14
    assert device.PRECISION == jax.lax.Precision.HIGH


def test_a_box_of_the_outputs_size_is_copied(canvases, photo):
    extent = canvases[1]
    rows = device._boxed(50, jnp.full(6, 30.0), jnp.full(6, 50.0), jnp.ones(6), extent[:, 2])
    columns = device._boxed(70, jnp.full(6, 11.0), jnp.full(6, 70.0), jnp.ones(6), extent[:, 3])
    found = jax.jit(device.resample)(canvases[0], rows, columns)
    np.testing.assert_array_equal(found[3], photo[30:80, 11:81])


def test_what_lies_outside_the_box_does_not_matter(canvases):
    tries, place, _ = uniform(4, 6)
    boxes = np.asarray(random_box(canvases[1][:, :2], tries, place), int)
    other = np.full_like(canvases[0], 255)
    for i, (top, left, h, w) in enumerate(boxes):
        other[i, top : top + h, left : left + w] = canvases[0][i, top : top + h, left : left + w]
    draws = device.Draws(tries, place)
    a, b = (crop((c, canvases[1]), (40, 40), draws) for c in (canvases[0], jnp.asarray(other)))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (1.0, 1.0), (0.2, 0.5)])
def test_boxes_are_the_hosts_for_the_same_numbers(ratio):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 900, (500, 2)).astype(np.int32)
    sizes[::5, 0] = np.maximum(1, sizes[::5, 1] // 20)  # so long that no try fits: the centred box
    tries, place, _ = uniform(5, 500)
    run = jax.jit(lambda s, t, p: device.random_box(s, t, p, (0.2, 1.0), ratio))
    found = np.asarray(run(jnp.asarray(sizes), tries, place)).astype(int)
    hosts = [transforms.crop_box(*map(int, s), Fixed(t, p), (0.2, 1.0), ratio) for s, t, p in zip(sizes, tries, place)]
    assert (found == np.array(hosts)).all(1).mean() > 0.99  # float32 rounds a few sides the other way
    assert np.abs(found - np.array(hosts))[:, 2:].max() <= 1


def test_law_of_the_boxes():
    h, w, n = 375, 500, 4000
    draws = device.draw(Context(jax.random.key(3), 7), "image", n, WINDOW, flip=True)
    sizes = jnp.tile(jnp.array([h, w], jnp.int32), (n, 1))
    found = np.asarray(random_box(sizes, draws.tries, draws.place))
    rng = np.random.default_rng(8)
    host = np.array([transforms.crop_box(h, w, rng) for _ in range(n)])
    for column in range(4):
        assert stats.ks_2samp(found[:, column], host[:, column]).pvalue > 1e-3
    share, ratio = found[:, 2] * found[:, 3] / (h * w), found[:, 3] / found[:, 2]
    assert share.min() > 0.195 and share.max() <= 1 and ratio.min() > 0.74 and ratio.max() < 1.35
    assert abs(np.mean(draws.flip) - 0.5) < 0.04  # 5 standard errors


@pytest.mark.parametrize("size, pad", [((64, 64), 4), ((60, 90), 7), ((16, 16), 40)])
def test_padded_crop_is_the_hosts(canvases, photo, size, pad):
    _, place, _ = uniform(6, 6)
    found = crop(canvases, size, device.Draws(place=place), device.Window(None, WINDOW.ratio, pad))
    for i in range(6):
        expected = transforms.padded_crop(photo, size, pad, Fixed([], place[i]))
        assert psnr(found[i], expected) > 50


@pytest.mark.parametrize("size", [(64, 64), (60, 90), (240, 320), (300, 50)])
def test_centre_crop_is_the_hosts(canvases, photo, size):
    found = crop(canvases, size, device.Draws(), device.Window(None, WINDOW.ratio))
    expected = transforms.resize_and_center_crop(photo, size)
    assert psnr(found[2], expected) > 50
    if size == (240, 320):
        np.testing.assert_array_equal(found[2], photo)


def test_a_shrunken_picture_is_cropped_at_the_same_place():
    """A ramp's value tells the place: on the canvas at 0.4 of its size it must give the crop of the whole one."""
    ramp = np.broadcast_to(np.linspace(0, 255, 600, dtype=np.float32)[:, None, None], (600, 500, 1))
    canvas = np.zeros((3, 256, 256, 1), np.uint8)
    small = transforms.resize(ramp, (240, 200))
    canvas[:, :240, :200] = np.round(small)
    extent = jnp.tile(jnp.array([600, 500, 240, 200], jnp.int32), (3, 1))
    tries, place, _ = uniform(7, 3)
    found = crop((jnp.asarray(canvas), extent), (32, 32), device.Draws(tries, place))
    for i in range(3):
        box = transforms.crop_box(600, 500, Fixed(tries[i], place[i]))
        np.testing.assert_allclose(found[i], transforms.resize(transforms.crop(ramp, box), (32, 32)), atol=1.6)


def program(mesh, b):
    """(the crop of b pictures as a function of canvases and rows, compiled for `mesh`; how its arguments lie)."""
    lies = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    def run(canvas, extent, rows):
        draws = device.draw(Context(jax.random.key(1), 5, rows), "image", b, WINDOW, flip=True)
        return device.crop(canvas, extent, (24, 24), WINDOW, draws)

    return jax.jit(run, in_shardings=(lies,) * 3, out_shardings=lies), lies


def test_eight_devices_are_one_and_nothing_moves(photo):
    canvas = np.zeros((16, 128, 128, 3), np.uint8)
    for i in range(16):
        canvas[i, :100, :90] = photo[i : 100 + i, 5 * i : 90 + 5 * i]
    batch = canvas, np.tile(np.array([100, 90, 100, 90], np.int32), (16, 1)), np.arange(16)
    found = {}
    for n in (1, 8):
        mesh = jax.make_mesh((n,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:n])
        run, lies = program(mesh, 16)
        found[n] = np.asarray(run(*jax.device_put(batch, lies)))
        text = run.lower(*batch).compile().as_text()
        moved = r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|gather|scatter)(-start)?\("
        assert not re.search(moved, text)
    np.testing.assert_array_equal(found[1], found[8])
    run, lies = program(mesh, 8)
    half = np.asarray(run(*jax.device_put(tuple(x[1::2] for x in batch), lies)))  # a microbatch: rows 1, 3, 5 ...
    np.testing.assert_array_equal(half, found[1][1::2])


def test_draws_are_of_seed_step_and_leaf():
    draw = lambda seed, step, name: device.draw(Context(jax.random.key(seed), step), name, 4, WINDOW, flip=True).tries
    first = np.asarray(draw(0, 0, "image"))
    np.testing.assert_array_equal(first, draw(0, 0, "image"))
    assert len(np.unique(first)) == first.size  # rows differ
    for other in (draw(1, 0, "image"), draw(0, 1, "image"), draw(0, 0, "image_2")):
        assert not np.isin(other, first).any()


def test_flops():
    assert device.flops((512, 512), (224, 224)) == 2 * (512 * 512 * 224 * 3 + 512 * 224 * 224 * 3)
