"""The search: which guess is taken, what a compile teaches, and a whole search on a made-up chip."""

import dataclasses

import pytest
from tiny_runs import config_file, tiny

from mae_jax.ahead import fit, predict, report, step
from mae_jax.ahead.predict import Guess, Settings
from mae_jax.ahead.roofline import Roofline
from mae_jax.ahead.topology import Topology, topology
from mae_jax.config import resolve
from mae_jax.core import tree
from mae_jax.core.chips import chip
from mae_jax.core.errors import UserError


def guess(peak: float, seconds: float, *, m: int = 1, remat: str = "none", scan: bool = True, fsdp: int = 1) -> Guess:
    return Guess(Settings(m, remat, scan, fsdp), 0.0, 0.0, peak, Roofline(seconds, 0.0, {}))


def settings_of(changed) -> Settings:
    """The settings of these overrides."""
    return Settings(*(changed[key] for key in ("train.microbatches", "mesh.remat", "mesh.scan", "mesh.fsdp")))


def test_the_fastest_that_fits_is_taken():
    found = fit.choose([guess(20, 1.0), guess(9, 2.0, remat="dots"), guess(5, 3.0, remat="full")], 10)
    assert found is not None and found.settings.remat == "dots"


def test_of_equally_fast_ones_the_batch_stays_together():
    found = fit.choose([guess(3, 0.99, m=4), guess(8, 1.0, scan=False), guess(9, 1.01)], 10)
    assert found is not None and found.settings == Settings(1, "none", True, 1)


def test_where_nothing_fits_the_smallest_is_taken():
    found = fit.choose([guess(30, 1.0), guess(20, 9.0, remat="full")], 10)
    assert found is not None and found.peak == 20
    assert fit.choose([], 10) is None


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A tiny MAE, 32 samples on 8 devices."""
    return step.ask(str(config_file(tmp_path_factory.mktemp("fit") / "c.py", tiny("train.batch=32"))))


@pytest.fixture(scope="module")
def made_up():
    """This machine's eight devices, as if each were a v5e."""
    return dataclasses.replace(topology("local"), chip=chip("v5e"), memory=2.0**30)


@pytest.fixture(scope="module")
def searched(asked, made_up):
    """(figures, settings, what was said) of a search that finds room."""
    said: list[str] = []
    return *fit.fit(asked, made_up, said.append), said


@pytest.mark.parametrize(
    "real, taken, compiles",
    [
        ({4: 1.20, 16: 1.02, 64: 1.01}, 16, 2),  # what 64 may gain is less than a roofline can tell
        ({4: 1.20, 16: 1.25, 64: 1.06}, 4, 2),  # what was said to be faster is not: so much for the guesses
        ({4: 1.02, 16: 1.01, 64: 1.01}, 4, 1),
    ],
)  # fmt: skip
def test_a_search_goes_on_while_it_gets_faster(monkeypatch, asked, made_up, searched, real, taken, compiles):
    """Three settings that are guessed equally fast, until a compile shows what each device's share costs."""

    class Predictor:
        share = 0.0  # seconds of a whole copy of the parameters

        def __init__(self, *_):
            pass

        def guess(self, s):
            return guess(5, max(1.0, 0.9 + self.share / s.fsdp), fsdp=s.fsdp)

        def learn(self, chosen, found):
            self.share = chosen.settings.fsdp * (found.roofline.seconds - 0.9)

    def compiled(fsdp, _):
        asked_for.append(fsdp)
        return dataclasses.replace(searched[0], roofline=Roofline(real[fsdp], 0.0, {}))

    asked_for: list[int] = []
    monkeypatch.setattr(fit, "Predictor", Predictor)
    monkeypatch.setattr(fit, "candidates", lambda *_: [Settings(1, "dots", True, n) for n in real])
    monkeypatch.setattr(fit.program, "compiled", compiled)
    monkeypatch.setattr(Settings, "of", lambda self, _: self.fsdp)
    found, changed = fit.fit(asked, made_up, lambda _: None)
    assert changed["mesh.fsdp"] == taken and found.roofline.seconds == real[taken] and len(asked_for) == compiles


def test_a_search_that_fits_at_once(searched):
    found, changed, said = searched
    assert found.fits and changed["train.microbatches"] == 1 and len(said) == 2
    assert said[1].endswith("fits") and report.settings(changed).startswith("--config.train.microbatches=1 ")


def test_a_search_that_fails_says_by_how_much_and_what_to_change(asked, made_up, monkeypatch):
    monkeypatch.setattr(fit, "COMPILES", 1)
    said: list[str] = []
    found, changed = fit.fit(asked, dataclasses.replace(made_up, memory=1e5), said.append)
    assert not found.fits and found.over > 0 and said[-1] == "nothing fits" and changed
    text = report.text("tiny", found)
    assert "verdict: does NOT fit: too large by " in text and "a larger slice" in text


def test_a_compile_corrects_the_guess(asked, made_up, searched):
    found, changed, _ = searched
    predictor = predict.Predictor(asked, made_up)
    settings = settings_of(changed)
    first = predictor.guess(settings)
    predictor.learn(first, found)
    again = predictor.guess(settings)
    floor = again.arguments + again.weights + again.activations  # at least what one block's work needs
    assert again.peak == pytest.approx(max(found.memory.peak, floor), rel=0.01)
    assert first.arguments == pytest.approx(found.memory.arguments, rel=0.02)


def test_remat_keeps_less_and_computes_more(asked, made_up):
    predictor = predict.Predictor(asked, made_up)
    none, full = predictor.traced("none"), predictor.traced("full")
    assert full.residuals < none.residuals and full.flops > none.flops and none.loops


def again(asked, *overrides):
    """The same config with more keys."""
    return dataclasses.replace(asked, config=resolve(asked.config.to_dict(), overrides))


def test_what_a_search_prints_is_a_command_that_runs(asked, made_up):
    """Also where the config fixes mesh.data, which the settings leave open."""
    fixed = again(asked, "mesh.data=8")
    changed = Settings(2, "dots", True, 4).overrides()
    run = step.make_run(again(fixed, *(f"{key}={value}" for key, value in changed.items())), made_up.devices)
    assert dict(run.mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1}


def test_microbatches_that_do_not_fit_are_no_reason_not_to_search(asked, made_up):
    """16 parts of 32 samples are 2 at a time, for 8 devices; in 1, 2 and 4 parts each has one or more."""
    many = again(asked, "train.microbatches=16")
    assert {s.microbatches for s in fit.candidates(many, made_up, predict.Predictor(many, made_up))} == {1, 2, 4}


@pytest.mark.parametrize("across, sizes", [("data", {1, 2, 4}), ("fsdp", {2, 4, 8})])
def test_slices_leave_the_sizes_that_keep_one_axis_inside(asked, made_up, monkeypatch, across, sizes):
    monkeypatch.setattr(fit, "SMALL", 0)
    two = again(asked, "mesh.slices=2", f"mesh.across={across}")
    found = fit.candidates(two, made_up, predict.Predictor(two, made_up))
    assert {s.fsdp for s in found} == sizes


class TwoSlices(Topology):
    """Eight devices of which four lie in each of two slices."""

    def slices(self, members):
        return len({k // 4 for k in members})


@pytest.mark.parametrize("across, fsdp", [("data", 1), ("data", 4), ("fsdp", 8)])
def test_a_guess_counts_the_network_between_slices(asked, made_up, across, fsdp):
    """The part that is left after each slice's own sum, over the slow network: 2 devices of a ring."""
    two = again(asked, "mesh.slices=2", f"mesh.across={across}")
    apart = TwoSlices(*(getattr(made_up, field.name) for field in dataclasses.fields(made_up)))
    near, far = (predict.Predictor(two, t).network(Settings(1, "none", True, fsdp))[across] for t in (made_up, apart))
    size = tree.size(predict.Predictor(two, made_up).run(fsdp).shapes["params"])
    crossing = {1: 4 * size / 4, 4: 4 * size / 4, 8: (4 + 4) / 2 * size / 4}[fsdp]  # of an all-reduce; both halves
    gone = {1: 3 / 4 / (7 / 8), 4: 0, 8: 3 / 4 / (7 / 8)}[fsdp]  # of `near` that is inside a slice
    assert far == pytest.approx(gone * near + crossing / made_up.chip.dcn_bandwidth, rel=1e-3)


@pytest.mark.slow
def test_samples_that_hang_together_are_not_cut(made_up):
    croma = step.ask("configs/croma/tiny_sensors.py", ["train.batch=16", "eval.batch=16"])
    parts = {s.microbatches for s in fit.candidates(croma, made_up, predict.Predictor(croma, made_up))}
    assert parts == {1}


def test_a_chip_that_is_not_in_the_table(asked):
    with pytest.raises(UserError, match="--fit needs the chip's peaks"):
        fit.fit(asked, topology("local"), print)
