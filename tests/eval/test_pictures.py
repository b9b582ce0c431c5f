import numpy as np
import pytest
from PIL import Image

from mae_jax.core.errors import UserError
from mae_jax.eval.pictures import CELL, GREY, LINE, denormalise, grid, reconstruction_grid, save_png, to_rgb

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def pictures(b=3, h=32, w=32, c=3):
    """In normalised space; the left half is hidden. The visible top right pixel is the mean colour (0)."""
    rng = np.random.default_rng(0)
    original = rng.normal(size=(b, h, w, c)).astype(np.float32)
    original[:, 0, -1] = 0.0
    reconstruction = rng.normal(size=original.shape).astype(np.float32)
    hidden = (np.arange(w) < w // 2)[None, None, :, None]
    return {
        "original": original,
        "masked": np.where(hidden, np.float32(0), original),
        "reconstruction": reconstruction,
        "pasted": np.where(hidden, reconstruction, original),
    }


def cell(sheet, row, column, rows, h, w):
    """One image of a sheet, by the geometry that the docstring promises."""
    factor = max(1, -(-CELL // max(h, w)))
    head = sheet.shape[0] - (rows * (h * factor + LINE) - LINE)
    top, left = head + row * (h * factor + LINE), column * (w * factor + LINE)
    return sheet[top : top + h * factor : factor, left : left + w * factor : factor]


def test_shape_and_every_cell():
    given = pictures()
    sheet = reconstruction_grid(given, MEAN, STD, max_images=2)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1:] == (4 * CELL + 3 * LINE, 3)
    assert 2 * CELL + LINE < sheet.shape[0] < 2 * CELL + LINE + 60
    for column, name in enumerate(["original", "masked", "reconstruction", "pasted"]):
        for row in range(2):
            expected = np.round(np.clip(given[name][row] * STD + MEAN, 0, 1) * 255)
            if name == "masked":
                expected[:, :16] = GREY
            shown = cell(sheet, row, column, 2, 32, 32).astype(int)
            assert np.abs(shown - expected).max() <= 1  # float32 against float64 rounding


def test_visible_mean_colour_is_not_taken_for_hidden():
    sheet = reconstruction_grid(pictures(b=1), MEAN, STD)
    assert cell(sheet, 0, 1, 1, 32, 32)[0, -1].tolist() == [102, 128, 153]


@pytest.mark.parametrize("c", [1, 2, 5])
def test_other_channel_counts(c):
    given = pictures(b=1, h=24, w=40, c=c)
    mean, std = (0.5,) * c, (0.25,) * c
    shown = cell(reconstruction_grid(given, mean, std), 0, 0, 1, 24, 40)
    pixels = np.clip(given["original"][0] * 0.25 + 0.5, 0, 1)
    expected = {1: pixels.repeat(3, -1), 2: pixels.mean(-1, keepdims=True).repeat(3, -1), 5: pixels[..., :3]}[c]
    assert np.abs(shown - expected * 255).max() <= 0.51


def test_large_images_keep_their_size():
    sheet = reconstruction_grid(pictures(b=1, h=140, w=200), MEAN, STD)
    assert sheet.shape[1] == 4 * 200 + 3 * LINE


def test_part_of_the_columns():
    given = {name: array for name, array in pictures(b=1).items() if name in ("original", "reconstruction")}
    assert reconstruction_grid(given, MEAN, STD).shape[1] == 2 * CELL + LINE


def test_captions_are_drawn_and_fit():
    """Ink in the head of every column, none in the separators between them."""
    given = pictures(b=1, h=16, w=16, c=5)
    sheet = reconstruction_grid(given, (0.5,) * 5, (0.2,) * 5)
    head = sheet[: sheet.shape[0] - CELL]
    for column in range(4):
        left = column * (CELL + LINE)
        assert head[:, left : left + CELL].min() < 120
        if column:
            assert (head[:, left - LINE : left] == 255).all()


def test_grid_without_captions_has_no_head():
    assert grid([[np.zeros((CELL, CELL, 3), np.uint8)] * 2] * 3).shape == (
        3 * CELL + 2 * LINE,
        2 * CELL + LINE,
        3,
    )


def test_denormalise_clips_and_survives_nan():
    out = denormalise(np.array([[[np.nan, 10.0, -10.0]]], np.float32), MEAN, STD)
    np.testing.assert_allclose(out, [[[0, 1, 0]]])
    assert to_rgb(out).tolist() == [[[0, 255, 0]]]


def test_save_png_round_trip_and_no_half_file(tmp_path, monkeypatch):
    array = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    path = tmp_path / "new" / "a.png"
    save_png(path, array)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), array)

    def full_disk(self, file, **options):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_png(path, 255 - array)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(path)), array)


def test_nothing_to_draw():
    with pytest.raises(UserError, match="no picture"):
        reconstruction_grid({}, MEAN, STD)


def test_what_has_other_channels_than_the_input_is_drawn_as_it_is():
    given = pictures(b=1) | {"code_map": np.full((1, 32, 32, 1), 0.5, np.float32)}
    sheet = reconstruction_grid(given, MEAN, STD)
    assert (cell(sheet, 0, 4, 1, 32, 32) == 128).all()
