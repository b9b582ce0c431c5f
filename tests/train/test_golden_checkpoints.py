"""A run that any released version has saved goes on: one small checkpoint per format is kept (make_golden_checkpoint.py
makes one).
"""

import json
import shutil
from pathlib import Path

import pytest
from tiny_runs import metrics

from mae_jax.config import resolve
from mae_jax.core.hashing import array_hash
from mae_jax.core.tree import flatten
from mae_jax.train.checkpoint import read_meta, restore_arrays
from mae_jax.train.checkpoint_meta import FORMAT
from mae_jax.train.loop import train

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"


def test_every_format_is_kept():
    assert sorted(p.name for p in GOLDEN.iterdir()) == [f"format_{n}" for n in range(1, FORMAT + 1)]


@pytest.mark.parametrize("number", range(1, FORMAT + 1))
def test_a_run_saved_in_an_old_format_goes_on(tmp_path, number):
    golden = GOLDEN / f"format_{number}"
    expected = json.loads((golden / "expected.json").read_text())
    run = Path(shutil.copytree(golden / "run", tmp_path / "run"))
    meta = read_meta(run)
    assert meta["format"] == number and meta["step"] == meta["data"]["position"] == 2
    arrays = flatten(restore_arrays(run))
    assert {path: list(array_hash(array)) for path, array in arrays.items()} == expected["hashes"]
    assert train(resolve(json.loads((run / "config.json").read_text()), ["train.steps=4"]), run) == 0
    losses = {str(line["step"]): line["loss"] for line in metrics(run) if "loss" in line}
    assert list(losses) == ["1", "2", "3", "4"]
    assert {step: losses[step] for step in expected["losses"]} == pytest.approx(expected["losses"], rel=1e-4)


def test_a_config_from_before_a_key_existed_is_the_same_run(tmp_path):
    """Keys that came after a run was saved have their defaults; only another value of one is a difference."""
    from mae_jax.core.errors import UserError
    from mae_jax.train import checkpoint_meta
    from mae_jax.train.loop import refuse_other_config

    run = Path(shutil.copytree(GOLDEN / f"format_{FORMAT}" / "run", tmp_path / "run"))
    path = run / "checkpoints" / "2" / "meta" / "metadata"
    meta = read_meta(run)
    config = resolve(meta["config"])
    del meta["config"]["data"]["repeats"], meta["config"]["augment"]["pad"], meta["config"]["optim"]["b1"]
    path.write_text(json.dumps(checkpoint_meta.seal(meta)))
    refuse_other_config(config, run)
    with pytest.raises(UserError, match="What differs: data.repeats: 1 -> 2. Take"):
        refuse_other_config(resolve(meta["config"], ["data.repeats=2"]), run)
