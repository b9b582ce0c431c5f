"""Classifiers of point clouds with parts of the encoder frozen, and the segmentation of clouds into parts."""

import json

import jax
import numpy as np
import pytest
from tiny_runs import metrics

from mae_jax.commands.main import main
from mae_jax.config import resolve
from mae_jax.core import tree
from mae_jax.eval import parts
from mae_jax.train.build import build
from mae_jax.weights.store import Weights, open_weights, write

CONFIG = {
    "method": dict(name="pointmae", points=40, groups=8, group_points=5, dim=12, depth=3, heads=2, decoder_depth=1,
                   decoder_heads=2),
    "data": dict(source="made_points", count=60, length=40), "train": dict(steps=4, batch=16), "eval": dict(batch=16),
    "augment": dict(points_test_sample="first"),
}  # fmt: skip
SHORT = ("checkpoint.every=4", "eval.every=4", "log.every=2", "log.tensorboard=False")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    run = build(resolve(CONFIG))
    state = jax.device_get(run.init(("params", "stats")))
    weights = Weights(
        run.config.to_dict(), state["params"], state["stats"], info={"kind": "pretraining", "source": "w"}
    )
    return write(tmp_path_factory.mktemp("weights") / "cloud.safetensors", weights)


def verb(name, file, out, *overrides):
    return main([name, "--weights", str(file), "--out", str(out), *(f"--config.{o}" for o in (*SHORT, *overrides))])


@pytest.mark.slow
def test_a_frozen_encoder_moves_its_statistics_alone(file, tmp_path, capsys):
    """Point-CMAE's protocol "mlp3": head and class token are trained; batch norms run in training mode."""
    out = tmp_path / "ft"
    status = verb(
        "finetune", file, out, "method.class_token=True", "transfer.recipe=pointmae", "transfer.steps=4",
        "transfer.batch=16", r"transfer.trained=('(class_token|pos_embed)$',)", "augment.points_votes=2",
        r"transfer.fresh=('(class_token|pos_embed)$',)", "optim.clip=10.",
    )  # fmt: skip
    assert status == 0
    before, after = open_weights(str(file)), open_weights(str(out / "model.safetensors"))
    old, new = tree.flatten(before.params), tree.flatten(after.params)
    fresh = {path for path in new if path not in old}
    assert fresh == {"encoder/class1/class_token", "encoder/class1/pos_embed"}
    for path in new.keys() - fresh:
        np.testing.assert_array_equal(new[path], old[path], err_msg=path)
    assert set(after.head["params"]["head"]) == {"fc0", "fc1", "fc2", "norm0", "norm1"}
    moved = tree.flatten(after.stats)
    assert all((moved[path] != x).any() for path, x in tree.flatten(before.stats).items())
    found = json.loads((out / "results.json").read_text())
    assert 0 <= found["top1"] <= 100
    capsys.readouterr()
    assert main(["evaluate", "--weights", str(out / "model.safetensors"), "--protocols", "classify"]) == 0
    assert f"{found['top1']:.1f}" in capsys.readouterr().out


@pytest.mark.slow
def test_parts_are_learned_from_three_blocks(file, tmp_path):
    out = tmp_path / "parts"
    assert verb("segment", file, out, "transfer.segment_steps=4", "transfer.segment_batch=16") == 0
    found = json.loads((out / "results.json").read_text())
    assert {"instance_miou", "class_miou", "accuracy", "category"} <= set(found) and len(found["category"]) == 5
    assert metrics(out)[-1]["val/instance_miou"] == pytest.approx(found["instance_miou"], abs=0.01)


def test_scores_of_parts_by_hand():
    """PointNet's rule: a part that is neither there nor predicted counts 1; categories are weighed equally."""
    assert [list(r) for r in parts.offsets((2, 3))] == [[0, 1], [2, 3, 4]]
    truth, predicted = np.array([2, 2, 3, 3]), np.array([2, 3, 3, 3])
    iou = parts.cloud_iou(truth, predicted, range(2, 5))
    assert iou == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    score = parts.score(np.array([iou, 1.0, 0.5]), np.array([1, 0, 0]), 2, 0.75)
    assert score.instance_miou == pytest.approx(100 * (iou + 1.5) / 3)
    assert score.class_miou == pytest.approx(100 * (iou + 0.75) / 2) and score.accuracy == 75


@pytest.mark.slow
def test_episodes_are_fine_tuned_one_by_one(file, tmp_path):
    options = ("recipe=pointmae", "steps=2", "batch=8", "episode_way=2", "episode_shot=4", "episode_queries=4",
               "episode_folds=2")  # fmt: skip
    status = main([
        "evaluate", "--weights", str(file), "--protocols", "episodes", "--output", str(tmp_path / "r.json"),
        *(f"--config.transfer.{o}" for o in options), "--config.eval.batch=8",
    ])  # fmt: skip
    assert status == 0
    assert 0 <= json.loads((tmp_path / "r.json").read_text())["episodes"]["pretrained"] <= 100
    assert "deviation" in (tmp_path / "r_full.json").read_text()
