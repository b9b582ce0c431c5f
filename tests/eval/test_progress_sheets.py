"""Reconstructions over mask ratios and over steps."""

import jax
import numpy as np
import pytest
from tiny_methods import TINY, make

from mae_jax import methods
from mae_jax.core.errors import UserError
from mae_jax.eval.pictures import CELL, GREY, LINE, reconstruction_grid, save_png
from mae_jax.eval.progress_sheets import (
    at_ratio,
    from_files,
    hidden_share,
    layout,
    possible,
    predicted,
    ratio_sheet,
    step_sheet,
)
from mae_jax.eval.reconstruct import reconstructor
from mae_jax.masking.select import keep_count

RATIOS = (0.25, 0.5, 0.8)


def instance(name):
    return methods.get(name)(**TINY[name])


@pytest.fixture(scope="module")
def drawn():
    """{ratio: pictures} of the tiny MAE under the same draw."""
    method, params, rest, batch = make("mae")
    return {r: jax.device_get(reconstructor(at_ratio(method, r), lambda b: b)(params, rest, batch, 3)) for r in RATIOS}


def test_every_ratio_hides_what_keep_count_says_and_more_hides_more(drawn):
    hidden = {r: (p["masked"] == 0).all(-1) for r, p in drawn.items()}
    for ratio, gone in hidden.items():
        kept = keep_count(16, ratio)
        assert (gone.mean(axis=(1, 2)) == 1 - kept / 16).all()
        assert hidden_share(at_ratio(make("mae")[0], ratio)) == 1 - kept / 16
    assert (hidden[0.25] <= hidden[0.5]).all() and (hidden[0.5] <= hidden[0.8]).all()


def test_the_sheet_shows_these_masks(drawn):
    """Grey cells of the masked rows, by the sheet's geometry: 8 x 16 pixels, enlarged eightfold."""
    sheet = ratio_sheet(drawn, ((0.5, 0.5), (0.2, 0.2)), most=2, hidden={0.8: 13 / 16})
    height, rows = CELL // 2, 4
    top, left = sheet.shape[0] - (rows * (height + LINE) - LINE), sheet.shape[1] - (4 * (CELL + LINE) - LINE)
    assert 0 < top < 60 and left > 20  # captions, and labels of the rows
    for column, ratio in enumerate(RATIOS, 1):
        for i in range(2):
            y, x = top + 2 * i * (height + LINE), left + column * (CELL + LINE)
            grey = (sheet[y : y + height, x : x + CELL] == GREY).all(-1)
            assert abs(grey.mean() - (1 - keep_count(16, ratio) / 16)) < 0.02  # a visible pixel may be that grey


def test_ratios_that_a_method_cannot_have():
    mae, cae, lut = map(instance, ("mae", "cae", "lut"))
    with pytest.raises(UserError, match="'cae' has no mask_ratio .*masked=9"):
        at_ratio(cae, 0.5)
    with pytest.raises(UserError, match="'cae' has no mask_ratio"):
        possible(cae, RATIOS)
    with pytest.raises(UserError, match="mask_ratio=0.25"):
        at_ratio(lut, 0.25)
    assert possible(lut, (0.25, 0.5, 0.75)) == [0.5, 0.75]
    assert possible(mae, (0.0, 0.5, 1.0)) == [0.5]


def test_what_tells_how_well_a_method_predicts():
    pictures = lambda *names: dict.fromkeys(names)
    assert predicted(pictures("original", "masked", "reconstruction", "pasted", "more")) == "pasted"
    assert predicted(pictures("masked", "original", "codes", "codes_predicted")) == "codes_predicted"
    assert predicted(pictures("original", "pasted", "codes"), "codes") == "codes"
    with pytest.raises(UserError, match="no picture 'reconstuction'.*'reconstruction'"):
        predicted(pictures("reconstruction"), "reconstuction")
    with pytest.raises(UserError, match="predicts nothing"):
        predicted(pictures("original", "masked"))


def test_training_pictures_become_the_sheet_of_the_same_steps(drawn, tmp_path):
    """Cut out of PNGs, pixel for pixel what would be drawn from the arrays."""
    colours = ((0.5, 0.5), (0.2, 0.2))
    pictures = dict(zip((10, 20, 300), drawn.values(), strict=True))
    files = {}
    for step, arrays in pictures.items():
        files[step] = tmp_path / f"step_{step}.png"
        save_png(files[step], reconstruction_grid(arrays, *colours, max_images=3), layout=layout(arrays, 3))
    sheet, expected = from_files(files), step_sheet(pictures, colours, most=3)
    rows = 3 * (CELL // 2 + LINE) - LINE
    np.testing.assert_array_equal(sheet[-rows:], expected[-rows:])
    assert sheet.shape[1] == 5 * (CELL + LINE) - LINE
    save_png(tmp_path / "plain.png", sheet)
    assert from_files({1: tmp_path / "plain.png", 10: files[10]}) is None  # one was not written by training


def test_at_most_six_steps_first_and_last_among_them(drawn, tmp_path):
    arrays, path = drawn[0.5], tmp_path / "a.png"
    save_png(path, reconstruction_grid(arrays), layout=layout(arrays, 8))
    assert from_files(dict.fromkeys(range(40), path)).shape[1] == 8 * (CELL + LINE) - LINE


def test_every_method_is_drawn_or_refused():
    """By the field alone: nothing here knows the methods."""
    for name in TINY:
        if hasattr(instance(name), "mask_ratio"):
            assert possible(instance(name), (0.75,)) == [0.75]
        else:
            with pytest.raises(UserError, match=f"'{name}'"):
                possible(instance(name), RATIOS)
