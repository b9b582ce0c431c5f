"""The schema: defaults, overrides, types, and errors that name the nearest key."""

import json
import sys

import pytest

from mae_jax.config import differences, load, make_method, resolve
from mae_jax.core.errors import UserError
from mae_jax.train import inputs

RAW = {"method": {"name": "mae", "image_size": 8, "patch": 2, "channels": 1}, "data": {"source": "digits"},
       "augment": {"mean": (0.5,), "std": (0.5,)}}  # fmt: skip


def test_defaults_overrides_and_conversions():
    config = resolve(RAW, ["train.batch=64", "optim.learning_rate=1", "method.patch=(2,4)", "augment.crop_scale=none",
                           "log.wandb=mine", "optim.clip=1", "method.norm_pix=true"])  # fmt: skip
    assert (config.train.batch, config.train.steps) == (64, 1000)
    assert config.optim.learning_rate == 1.0 and isinstance(config.optim.learning_rate, float)
    assert config.method["patch"] == (2, 4) and config.method["depth"] == 24 and config.method["norm_pix"] is True
    assert config.augment.crop_scale is None and config.log.wandb == "mine" and config.optim.clip == 1.0


def test_source_and_method_names_bring_their_own_keys():
    config = resolve(RAW, ["data.source=folder", "data.path=/some/where"])
    assert config.data.options == {"path": "/some/where", "holdout": 0.1, "manifest": None}
    with pytest.raises(UserError, match="unknown config key 'data.path'"):
        resolve(RAW, ["data.path=/some/where"])


def test_json_round_trip():
    config = resolve(RAW, ["data.source=photos", "data.crops=7"])
    again = resolve(json.loads(json.dumps(config.to_dict())))
    assert again == config and differences(config.to_dict(), again.to_dict()) == []


@pytest.mark.parametrize(
    "override, message",
    [
        ("optim.learnig_rate=1", "unknown config key 'optim.learnig_rate'. Did you mean 'optim.learning_rate'?"),
        ("learning_rate=1", "Did you mean 'optim.learning_rate'?"),
        ("method.mask_ration=1", "Did you mean 'method.mask_ratio'?"),
        ("train.steps=many", "config key 'train.steps' is 'many' (str); expected int."),
        ("train.steps=1.5", "config key 'train.steps' is 1.5 (float); expected int."),
        ("augment.flip=1", "config key 'augment.flip' is 1 (int); expected bool."),
        ("augment.crop_scale=(0.1,)", "config key 'augment.crop_scale' is (0.1,) (tuple)"),
        ("train.precision=float16", "config key 'train.precision' is 'float16' (str)"),
        ("method.name=mea", "unknown method 'mea'. Did you mean 'mae'?"),
        ("data.source=digit", "unknown data.source 'digit'. Did you mean 'digits'?"),
        ("train.batch=0", "train.batch is 0; expected at least 1."),
        ("train.microbatches=3", "train.microbatches=3 does not divide train.batch=256"),
        ("optim.warmup=2000", "optim.warmup=2000 steps is longer than train.steps=1000"),
        ("augment.std=(0,)", "must be positive"),
        ("train.steps", "has no value"),
        ("log.every=0", "log.every is 0; expected at least 1."),
        ("checkpoint.every=0", "checkpoint.every is 0; expected at least 1."),
        ("checkpoint.every=-1", "checkpoint.every is -1; expected at least 1."),
        ("optim.learning_rate=-1e-3", "optim.learning_rate is -0.001; expected a finite number, 0 or above."),
        ("optim.learning_rate=1e999", "optim.learning_rate is inf; expected a finite number, 0 or above."),
        ("optim.warmup=-1", "optim.warmup is -1; expected"),
        ("optim.eps=-1e-8", "optim.eps is -1e-08; expected"),
        ("optim.clip=-1", "optim.clip is -1; expected a finite number, 0 or above."),
        ("optim.weight_decay_end=-1", "optim.weight_decay_end is -1; expected"),
        ("optim.average=1", "optim.average is 1; expected at least 0 and below 1."),
        ("optim.b1=1", "optim.b1 is 1; expected at least 0 and below 1."),
        ("optim.b2=-0.1", "optim.b2 is -0.1; expected at least 0 and below 1."),
        ("optim.layer_decay=0", "optim.layer_decay is 0; expected a finite number above 0."),
        ("optim.decay_rules=(('(bias', 0.0),)", "optim.decay_rules: '(bias' is no regular expression: missing )"),
        ("optim.clip_groups=(('*', 1.0),)", "optim.clip_groups: '*' is no regular expression: nothing to repeat"),
    ],
)
def test_what_cannot_be_is_refused_in_one_paragraph(override, message):
    with pytest.raises(UserError) as error:
        resolve(RAW, [override])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_statistics_must_fit_the_channels():
    with pytest.raises(UserError, match=r"augment.mean has 1 number\(s\) but the method reads 3 channel"):
        config = resolve(RAW, ["method.channels=3"])
        inputs.check(make_method(config), config.augment)


def test_an_augmentation_that_does_not_exist_is_named():
    with pytest.raises(UserError, match="unknown config key 'augment.solarise'. Did you mean 'augment.solarize'?"):
        resolve(RAW, ["augment.solarise=0.2"])


def test_differences_that_matter():
    a = resolve(RAW).to_dict()
    b = resolve(
        RAW, ["log.every=7", "mesh.fsdp=2", "train.steps=2000", "data.workers=3", "checkpoint.keep=9"]
    ).to_dict()
    assert differences(a, b) == []
    assert differences(b, a) == ["train.steps: 2000 -> 1000"]
    c = resolve(RAW, ["method.depth=3", "train.seed=1"]).to_dict()
    assert differences(a, c) == ["method.depth: 24 -> 3", "train.seed: 0 -> 1"]


def test_data_may_move():
    """Whether they are the same, their fingerprint says."""
    old, new = ({"data": {"source": "folder", "path": path, "holdout": 0.1}} for path in ("data", "/scratch/7/data"))
    assert differences(old, new) == []
    assert differences(old, {"data": new["data"] | {"holdout": 0.2}}) == ["data.holdout: 0.1 -> 0.2"]


def test_files(tmp_path):
    with pytest.raises(UserError, match="no config file 'nowhere.py'"):
        load("nowhere.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="has no function get_config"):
        load(str(tmp_path / "empty.py"))
    (tmp_path / "_near.py").write_text("DEPTH = 3\n")
    (tmp_path / "one.py").write_text(
        '"""Title."""\nfrom _near import DEPTH\ndef get_config(arg="7"):\n'
        '    return {"method": {"name": "mae", "depth": DEPTH, "dim": int(arg)}}\n'
    )
    assert load(str(tmp_path / "one.py")) == ({"method": {"name": "mae", "depth": 3, "dim": 7}}, "Title.")
    assert load(f"{tmp_path / 'one.py'}:16")[0]["method"]["dim"] == 16


def test_a_package_below_the_config_is_imported_once(tmp_path):
    """A config beside a virtual environment (or beside mae_jax itself) must not unload what it imports from there."""
    (tmp_path / "below_the_config").mkdir()
    (tmp_path / "below_the_config" / "__init__.py").write_text("")
    (tmp_path / "_beside_the_config.py").write_text("")
    (tmp_path / "one.py").write_text("import below_the_config, _beside_the_config\ndef get_config(): return {}\n")
    load(str(tmp_path / "one.py"))
    assert "_beside_the_config" not in sys.modules
    assert sys.modules.pop("below_the_config", None) is not None


def test_another_source_leaves_the_fields_of_the_files_own_behind(tmp_path):
    raw = {"method": {"name": "mae"}, "data": {"source": "photos", "crops": 7, "workers": 2}}
    config = resolve(raw, [f"data.path={tmp_path}", "data.source=folder"])
    assert config.data.source == "folder" and config.data.workers == 2 and "crops" not in config.data.options
    with pytest.raises(UserError, match="data.crops"):  # but not what is asked for now
        resolve(raw, ["data.source=folder", "data.crops=3"])
    assert resolve(raw).data.options["crops"] == 7
