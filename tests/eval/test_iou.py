"""Scores of segmentations against two loops, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.eval.iou import IGNORE, confusion, score
from mae_jax.eval.segment_pictures import colours, paint, segmentation_sheet


def test_confusion_and_iou_equal_two_loops():
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, 3, IGNORE], (5, 6, 7)).astype(np.uint8)
    predicted = rng.integers(0, 5, (5, 6, 7))
    valid = np.array([1, 1, 0, 1, 0], bool)
    want = np.zeros((5, 5), int)
    for b in np.flatnonzero(valid):
        for t, p in zip(truth[b].ravel(), predicted[b].ravel(), strict=True):
            if t != IGNORE:
                want[t, p] += 1
    found = jax.jit(confusion, static_argnums=2)(jnp.asarray(truth), jnp.asarray(predicted), 5, jnp.asarray(valid))
    np.testing.assert_array_equal(found, want)
    result = score(np.asarray(found))
    for c in range(5):
        both = union = 0
        for b in np.flatnonzero(valid):
            for t, p in zip(truth[b].ravel(), predicted[b].ravel(), strict=True):
                if t != IGNORE:
                    both += t == c and p == c
                    union += c in (t, p)
        np.testing.assert_allclose(result.iou[c], 100 * both / union)
    assert result.miou == pytest.approx(result.iou.mean())


def test_scores_by_hand_and_absent_classes():
    """Class 2 is predicted but not there: in the mean IoU (0), not in the mean accuracy. Class 3 is in neither."""
    matrix = np.array([[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    found = score(matrix)
    np.testing.assert_allclose(found.iou, [75, 40, 0, np.nan])
    assert found.miou == pytest.approx((75 + 40) / 3) and found.pixel_accuracy == 62.5
    assert found.mean_accuracy == pytest.approx((75 + 50) / 2)
    details = found.details(["a", "b", "c", "d"])
    assert details["iou/b"] == pytest.approx(40) and "iou/d" not in details


def test_the_sheet_shows_truth_and_prediction_in_the_colours_of_its_legend():
    truth = np.array([[0, 1], [2, IGNORE]], np.uint8).repeat(20, 0).repeat(20, 1)
    image = np.zeros((40, 40, 1), np.uint8)
    sheet = segmentation_sheet([(image, truth, np.ones((40, 40), np.int32))] * 2, ["wall", "sky", "a long name"])
    table = colours(3)
    assert len({tuple(c) for c in colours(150)}) == 150
    shown = {tuple(c) for c in sheet.reshape(-1, 3)}
    assert {tuple(c) for c in table} <= shown and (128, 128, 128) in shown
    np.testing.assert_array_equal(paint(truth, 3)[0, 0], table[0])
    assert (paint(truth, 3)[-1, -1] == 128).all()
