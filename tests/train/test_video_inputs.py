"""Videos between the pipeline and the loss: uint8 on the way, one draw for all frames, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_videos import numbered, numbers

from mae_jax import methods
from mae_jax.augment import mixup
from mae_jax.augment.erase import erase
from mae_jax.config import resolve
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.data.multi_scale_crop import SCALES
from mae_jax.data.order import Draws
from mae_jax.data.video import VideoArray
from mae_jax.methods.base import Leaf
from mae_jax.schema import Augment
from mae_jax.train import inputs
from mae_jax.transfer.plan import finetune_config

SPEC = {"video": Leaf((4, 48, 64, 3))}
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)
AUGMENT = Augment(mean=MEAN, std=STD, options={"video_stride": 3, "video_crop": "centre"})


def record(clip=None):
    return {"video": VideoArray(numbered(40) if clip is None else clip)}


def test_clips_travel_as_uint8_and_arrive_normalised():
    assert inputs.batch_leaves(SPEC, AUGMENT) == {"video": Leaf((4, 48, 64, 3), "uint8")}
    sent = inputs.views(SPEC, AUGMENT, train=True)(record(), Draws(0, 0))["video"]
    assert sent.dtype == np.uint8 and (np.diff(numbers(sent)) == 3).all()
    got = inputs.on_device(SPEC, AUGMENT, {"video": jnp.asarray(sent)[None]}, None)["video"]
    np.testing.assert_allclose(got[0], (sent / 255 - MEAN) / STD, atol=1e-6)
    assert inputs.colours(SPEC, AUGMENT) == (MEAN, STD)


def test_an_evaluation_sees_the_middle_first():
    options = {"video_stride": 2, "video_test_clips": 5, "video_test_crops": 3}
    augment = Augment(mean=MEAN, std=STD, options=options)
    spec = {"video": Leaf((4, 48, 48, 3))}
    assert inputs.vote_views(spec, augment) == 15
    seen = [inputs.views(spec, augment, False, view)(record(), Draws(0, 0))["video"] for view in range(15)]
    starts = [0, 8, 16, 24, 32]  # of 20 strided frames, 16 more than a clip
    clips = numbered(40)
    wanted = [clips[t : t + 8 : 2, :, left : left + 48].tobytes() for t in starts for left in (0, 8, 16)]
    assert sorted(x.tobytes() for x in seen) == sorted(wanted) and seen[0].tobytes() == wanted[7]
    assert len({x.tobytes() for x in seen}) == 15


def test_erasing_takes_one_box_for_all_frames():
    x = jnp.zeros((16, 3, 10, 10, 1))

    @jax.jit
    def erased(x):
        contexts = [Context(jax.random.key(0), 0, jnp.arange(16)) for _ in range(2)]
        return erase(x, contexts[0], "video", 0.5), erase(x[:, 0], contexts[1], "video", 0.5)

    noise, image = (np.asarray(x)[..., 0] for x in erased(x))
    changed = noise != 0
    assert (changed == changed[:, :1]).all()
    hit = changed[:, 0].any((1, 2))
    assert 0 < hit.sum() < 16
    assert (noise[hit, 0] != noise[hit, 1]).any()  # other noise in each frame
    np.testing.assert_array_equal(image != 0, changed[:, 0])  # an image of the name draws the same box


def test_erasing_and_mixing_are_heeded(monkeypatch):
    drawn = mixup.Draw(jnp.float32(0.75), mixup.Box(0, 0, 0, 0), jnp.bool_(False))
    monkeypatch.setattr(mixup, "draw", lambda *args, **kwargs: drawn)  # compiling its beta takes seconds
    augment = Augment(mean=MEAN, std=STD, erase=1.0, mixup=0.8, options={"video_crop": "centre"})
    spec = SPEC | {"label": Leaf((), "int32")}
    video = jnp.asarray(numbered(24).reshape(6, 4, 48, 64, 3))
    batch = {"video": video, "label": jnp.arange(6)}
    device = lambda batch: inputs.on_device(spec, augment, batch, Context(jax.random.key(0), 0, jnp.arange(6)))
    got = jax.jit(device)(batch)
    assert got["label_partner"].tolist() == [5, 4, 3, 2, 1, 0]
    share = float(got["label_share"][0])
    assert share == 0.75
    plain = (np.asarray(video) / 255 - MEAN) / STD
    mixed = share * plain + (1 - share) * plain[::-1]
    assert 0.1 < np.isclose(np.asarray(got["video"]), mixed, atol=1e-4).mean() < 0.99  # the rest is erased


def config(**augment):
    raw = {
        "method": {
            "name": "videomae", "frames": 4, "image_size": 16, "patch": 8, "dim": 16, "depth": 1, "heads": 2,
            "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2,
        },
        "data": {"source": "moving_digits"}, "augment": augment,
    }  # fmt: skip
    return resolve(raw)


@pytest.mark.parametrize(
    ("augment", "error"),
    [({"video_stride": 0}, "video_stride=0"), ({"video_scales": (1.0, 1.2)}, "video_scales"),
     ({"video_test_clips": 0}, "video_test_clips"), ({"video_crop": "resized", "crop_scale": None}, "crop_scale"),
     ({"normalise": "batch"}, "normalise"), ({"mean": (0.5,), "std": (0.5,)}, "3 channel"),
     ({"colour_jitter": (0.4, 0.4, 0.4, 0.1)}, "colour_jitter"), ({"video_crop": "none"}, "video_crop"),
     ({"mean": (0.5, 0.5, 0.5)}, "method.mean")],
)  # fmt: skip
def test_what_is_refused(augment, error):
    with pytest.raises(UserError, match=error):
        found = config(**augment)
        fields = {key: x for key, x in found.method.items() if key != "name"}
        inputs.check(methods.get("videomae")(**fields), found.augment)


def test_fine_tuning_keeps_the_frames_and_changes_the_crop():
    pretrained = config(video_stride=2, video_sampling="sparse", video_test_clips=3, video_scales=(0.5,)).to_dict()
    tuned = finetune_config(pretrained).augment.options
    same = {"video_stride": 2, "video_sampling": "sparse", "video_test_clips": 3, "video_test_crops": 1}
    assert tuned == same | {"video_crop": "resized", "video_flip": True, "video_scales": SCALES}
    assert not finetune_config(pretrained, overrides=["augment.video_flip=False"]).augment.options["video_flip"]
