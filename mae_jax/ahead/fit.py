"""`mae_jax compile --fit`: the fastest settings that fit, by the roofline, with as few compiles as it can."""

from collections.abc import Callable, Sequence
from typing import Any

from mae_jax.ahead import program, step
from mae_jax.ahead.predict import Guess, Predictor, Settings, divisors
from mae_jax.ahead.topology import Topology
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import batch_shards

REMATS = ("none", "dots", "full")
COMPILES = 6  # at most
SMALL = 100 * 2**20  # bytes of parameters and optimizer below which splitting them is not tried
SAME = 1.03  # times between which a roofline cannot tell
GIB = 2**30


def fit(asked: step.Asked, topology: Topology, say: Callable[[str], None]) -> tuple[program.Figures, dict[str, Any]]:
    """(figures of the best settings, these as overrides): the fastest by the roofline that compile and fit.

    Guesses for all settings come from one trace per remat and the shardings (predict.py). The fastest that is guessed
    to fit is compiled; what it shows corrects the guesses. Once one fits, others are compiled for as long as their
    corrected guess says that they are faster, and they are. Where none fits, the figures are those of the smallest.

    Args:
      say: called with a line for everything that is tried.

    Raises:
      UserError: the devices are of no chip whose peaks are known, or there is nothing to search.
    """
    if topology.chip is None or topology.memory is None:
        raise UserError(
            f"--fit needs the chip's peaks and memory, and core/chips.py has none of a {topology.kind}: name a slice, "
            f"as --topology v5e:4x8."
        )
    predictor = Predictor(asked, topology)
    settings = candidates(asked, topology, predictor)
    say(f"{len(settings)} settings of {asked.config.train.batch} samples on {len(topology.devices)} x {topology.kind}")
    tried: dict[Settings, program.Figures] = {}
    best: Settings | None = None
    while len(tried) < COMPILES:
        guesses = [predictor.guess(s) for s in settings if s not in tried]
        if best is not None:
            guesses = faster(guesses, topology.memory, _seconds(tried[best]))
        chosen = choose(guesses, topology.memory)
        if chosen is None or (tried and chosen.peak > topology.memory and _hopeless(tried)):
            break
        found = program.compiled(chosen.settings.of(asked), topology)
        tried[chosen.settings] = found
        say(line(chosen, found))
        predictor.learn(chosen, found)
        if found.fits and (best is None or _seconds(found) < _seconds(tried[best])):
            best = chosen.settings
        elif best is not None:
            break
    if best is not None:
        return tried[best], best.overrides()
    say("nothing fits")
    smallest, figures = min(tried.items(), key=lambda item: item[1].memory.peak if item[1].memory else float("inf"))
    return figures, smallest.overrides()


def candidates(asked: step.Asked, topology: Topology, predictor: Predictor) -> list[Settings]:
    """The settings that change no result: where samples hang together, the batch is not cut."""
    config = asked.config
    run = predictor.run(predictor.smallest)
    rows = config.train.batch // batch_shards(run.mesh)
    parts = divisors(rows) if step.may_be_cut(run.method) else [config.train.microbatches]
    state = program.state_bytes(run)
    splits = [predictor.smallest]
    if state["parameters"] + state["optimizer"] > SMALL:
        splits = [n for n in divisors(len(topology.devices)) if predictor.builds(n)]
    remats = [r for r in REMATS if r == "none" or predictor.traced(r) != predictor.traced("none")]
    loops = (True, False) if predictor.traced("none").loops else (config.mesh.scan,)
    return [Settings(m, r, s, f) for m in parts for r in remats for s in loops for f in splits]


def choose(guesses: Sequence[Guess], memory: float) -> Guess | None:
    """The fastest guess that fits the memory; of those within SAME of it the one that keeps the batch most together.

    Where none fits, the smallest. None of nothing.
    """
    fitting = [g for g in guesses if g.peak <= memory]
    if not fitting:
        return min(guesses, key=lambda g: g.peak, default=None)
    best = min(g.roofline.seconds for g in fitting)
    return min((g for g in fitting if g.roofline.seconds <= SAME * best), key=_order)


def faster(guesses: Sequence[Guess], memory: float, seconds: float) -> list[Guess]:
    """Those that fit, and by more than a roofline's doubt take less than so many seconds."""
    return [g for g in guesses if g.peak <= memory and SAME * g.roofline.seconds < seconds]


def _seconds(found: program.Figures) -> float:
    return float("inf") if found.roofline is None else found.roofline.seconds


def _order(guess: Guess) -> tuple[float, ...]:
    """Of equally fast guesses: fewer microbatches, blocks as a loop (it compiles faster), less to do, less split."""
    s = guess.settings
    return (
        s.microbatches,
        not s.scan,
        float(f"{sum(guess.roofline.bounds.values()):.2g}"),
        guess.roofline.compute,
        s.fsdp,
    )


def line(guess: Guess, found: program.Figures) -> str:
    """What was tried, as guessed and as compiled."""
    guessed = f"guessed {guess.peak / GIB:.1f} GiB, {1e3 * guess.roofline.seconds:.1f} ms"
    real = "refused" if found.memory is None else f"{found.memory.peak / GIB:.1f} GiB"
    if found.roofline is not None:
        real += f", {1e3 * found.roofline.seconds:.1f} ms"
    return f"  {guess.settings}: {guessed}; compiled {real}: {'fits' if found.fits else 'does not fit'}"


def _hopeless(tried: dict[Settings, program.Figures]) -> bool:
    """Whether the smallest settings were compiled, and do not fit."""
    return any(s.remat == "full" for s in tried)
