"""The training loop: everything around the step. Reads from top to bottom as a run happens."""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from mae_jax.config import FREE_DATA, differences
from mae_jax.core.chips import mfu
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import replicated
from mae_jax.data.batches import Problems
from mae_jax.data.pipeline import fingerprint
from mae_jax.eval.reconstruct import reconstructor
from mae_jax.eval.report import full_json, results_json
from mae_jax.methods.base import Method
from mae_jax.schema import Config
from mae_jax.train.build import Run, build
from mae_jax.train.checkpoint import Checkpoints, read_meta, saved_steps
from mae_jax.train.feed import train_batches
from mae_jax.train.pictures import save_step, spread
from mae_jax.train.plots import plot_run
from mae_jax.train.probing import Probes
from mae_jax.train.progress import Progress
from mae_jax.train.signals import Preemption, agree
from mae_jax.train.stall import Stall
from mae_jax.train.state import State, rest_of
from mae_jax.train.summary import summary
from mae_jax.train.warm_start import warm_start
from mae_jax.train.writers import Writers

INTERRUPTED = 143  # exit status after a signal, as a shell reports SIGTERM
BROKEN = 10  # skipped updates in a row after which a run is given up


@dataclasses.dataclass(frozen=True)
class Task:
    """What a run trains: pretraining (`PRETRAINING`), or what stands on it (mae_jax/transfer/).

    Attributes:
      name: `config.transfer.task` of its runs.
      build: config -> Run.
      start: a fresh run's state.
      scores: class of (run, train split, test split) that measures states, as `Probes` does.
      report: what is said and written at the end: (scores, state, workdir).
    """

    name: str
    build: Callable[[Config], Run]
    start: Callable[[Run], State]
    scores: Callable[..., Any]
    report: Callable[[Any, State, Path], None]


def train(config: Config, workdir: Path, task: Task | None = None) -> int:
    """Train to the end of the schedule, or until a signal; resume where `workdir` left off.

    Returns: the exit status, 0 when the schedule was finished.
    """
    task = task or PRETRAINING
    if config.transfer.task != task.name:
        verb = "train" if config.transfer.task == "none" else config.transfer.task
        raise UserError(f"this config says transfer.task='{config.transfer.task}': use it with `mae_jax {verb}`.")
    refuse_other_config(config, workdir)
    run = task.build(config)
    source, test = run.open("train"), run.open("test")
    scores = task.scores(run, source, test)
    if config.eval.every or config.eval.protocols:
        scores.check(run, source, test)
    lead = jax.process_index() == 0
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use {workdir} as --workdir: {error.strerror}. Name a directory.") from None
    data = {"batch": config.train.batch, "seed": config.train.seed, "source": fingerprint(source)}
    if run.frozen_hashes:  # reads the files: a wrong one is named before anything else happens
        data["frozen"] = run.frozen_hashes
    with (
        Checkpoints(workdir, keep=config.checkpoint.keep, best=config.checkpoint.best) as checkpoints,
        Preemption() as preemption,
    ):
        state = resume(run, checkpoints, data) or task.start(run)
        start = int(state["step"])
        writers = Writers(
            workdir, tensorboard=config.log.tensorboard, resume_step=start, config=config.to_dict(), active=lead,
            wandb={"project": config.log.wandb, "name": workdir.name} if config.log.wandb else None,
        )  # fmt: skip
        if lead:
            (workdir / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
            print(summary(run, workdir, source.describe(), start), file=sys.stderr, flush=True)
        loop = Loop(run, workdir, checkpoints, writers, data, source, test, scores)
        try:
            state, finished = loop.run(state, start, preemption)
        finally:
            writers.close()
        if not finished:
            step = int(state["step"])
            print(
                f"stopped by {preemption.received or 'a signal to another process'} after step {step}; "
                f"the same command resumes.",
                file=sys.stderr,
            )
            return INTERRUPTED
        if lead:
            plot_run(workdir)
        task.report(scores, state, workdir)
    return 0


class Loop:
    """The steps of one run, and what happens every so many of them.

    Args:
      data: what identifies the data; saved with every checkpoint and compared on resume.
    """

    def __init__(
        self, run: Run, workdir: Path, checkpoints: Checkpoints, writers: Writers, data: dict[str, Any],
        source: Any, test: Any, probes: Any,
    ):  # fmt: skip
        self.built, self.workdir, self.checkpoints, self.writers, self.data = run, workdir, checkpoints, writers, data
        self.source, self.test = source, test
        self.config = run.config
        self.probes = probes
        self.pictures = reconstructor(
            run.method, run.augment, sharding=replicated(run.mesh), steps=run.config.train.steps
        )
        self.broken = 0  # updates skipped in a row, as far as logged steps tell
        self.logged = (0, 0)  # (step, skipped updates so far) when last logged
        self.scores: dict[str, float] = {}  # of this step; by them the best checkpoint is chosen

    def run(self, state: State, start: int, preemption: Preemption) -> tuple[State, bool]:
        """Train from step `start` -> (state, whether the schedule was finished)."""
        config, run = self.config, self.built
        total, log = config.train.steps, config.log
        patience = 1 if jax.process_count() == 1 else log.every  # agreeing costs a collective
        self.logged = start, int(state["guard"]["skipped"])
        batches = train_batches(run, self.source, start)
        progress = Progress(total, batch=config.train.batch, start=start, active=jax.process_index() == 0)
        before: dict[str, jax.Array] | None = None
        replaced = 0  # samples since the last logged step that could not be decoded
        stall = Stall()
        due: tuple[int, dict[str, Any]] | None = None  # logged when the next step is under way
        try:
            for step in range(start, total):
                now = run.at(step)
                host = stall.take(batches, before)
                replaced += int(host["replaced"].sum())
                state, metrics = now.step(state, run.frozen, now.put(host), now.method.plan(step))
                done = step + 1
                if due is not None:
                    self.log(*due, progress)
                    due = None
                if before is not None:
                    jax.block_until_ready(before)  # the host runs one step ahead, never more
                before = metrics
                if done % log.every == 0 or done == total or done == 1:
                    wait = stall.share()
                    due = done, metrics | {"data/replaced": replaced, "data/wait": wait}
                    replaced = 0
                    if done > start + 1:
                        stall.advise(wait)
                if done % patience == 0 and jax.process_count() > 1:
                    jax.block_until_ready(metrics)  # two collective programs at once can deadlock on a CPU
                stop = done < total and done % patience == 0 and agree(preemption.requested)
                if stop or self.pauses_at(done):
                    if due is not None:
                        self.log(*due, progress)
                        due = None
                    with progress.paused():
                        self.look(done, state)
                        if stop or done % config.checkpoint.every == 0 or done == total:
                            self.save(done, state)
                if stop:
                    return state, False
        finally:
            progress.close()
            batches.close()
            list_problems(self.workdir, batches.problems)
            self.checkpoints.wait()
        return state, True

    def pauses_at(self, step: int) -> bool:
        """Whether anything but the next train step is due after `step`."""
        c = self.config
        periods = (c.eval.every, c.log.pictures_every, c.checkpoint.every)
        return step == c.train.steps or any(every and step % every == 0 for every in periods)

    def log(self, step: int, metrics: Mapping[str, Any], progress: Progress) -> None:
        """Write one logged step, and stop a run in which nothing is finite any more."""
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        shown = {"loss": values["loss"], "lr": values["lr"]}
        progress.update(step, shown, mfu=self.mfu(step, progress.rate))
        if progress.rate is not None:
            values["images_per_second"] = progress.rate * self.config.train.batch
            if (used := self.mfu(step, progress.rate)) is not None:
                values["mfu"] = used
        self.writers.scalars(step, values)
        before, skipped = self.logged, int(values["skipped"])
        self.logged = step, skipped
        self.broken = self.broken + step - before[0] if skipped - before[1] == step - before[0] else 0
        if self.broken >= min(step, BROKEN):
            raise UserError(
                f"the loss is {values['loss']} and the gradient's norm {values['grad_norm']} at step {step}; the last "
                f"{self.broken} update(s) were skipped because of such values. The weights are still those of "
                f"the last finite step. Lower optim.learning_rate, set "
                f"optim.clip=1, or look for broken values in the data; the last checkpoint in {self.workdir} is good."
            )

    def mfu(self, step: int, steps_per_second: float | None) -> float | None:
        """Model FLOPs utilisation at this rate, where chip and cost are known."""
        cost = self.built.at(step - 1).method.cost()
        if cost is None or steps_per_second is None:
            return None
        mesh, rate = self.built.mesh, steps_per_second * self.config.train.batch
        return mfu(rate, cost.step, mesh.devices.flat[0].device_kind, mesh.size)

    def look(self, step: int, state: State) -> None:
        """Online probes and pictures, when they are due."""
        config, last = self.config, step == self.config.train.steps
        self.scores = {}
        if config.eval.every and step % config.eval.every == 0:
            self.scores = self.probes.online(state)
            self.writers.scalars(step, self.scores)
        if last or (config.log.pictures_every and step % config.log.pictures_every == 0):
            self.draw(step, state)

    def draw(self, step: int, state: State) -> None:
        """A reconstruction picture of some test images, to all writers."""
        if type(self.built.method).pictures is Method.pictures:  # it has none: spare the compilation
            return
        batch = spread(self.built, self.test, self.config.log.pictures)
        drawn = self.pictures(state["params"], rest_of(state, self.built.frozen), batch, 0)
        if drawn and jax.process_index() == 0:
            self.writers.images(step, "reconstruction", save_step(self.built, self.workdir, step, drawn))

    def save(self, step: int, state: State) -> None:
        """Start saving a checkpoint; `data.position` is the number of the next batch."""
        data = self.data | {"position": step}
        self.checkpoints.save(step, state, data=data, config=self.config.to_dict(), metrics=self.scores)


def start(run: Run) -> State:
    """A fresh state, from other weights where train.init names a run."""
    return warm_start(run, run.config.train.init) or run.init()


def refuse_other_config(config: Config, workdir: Path) -> None:
    """Raise UserError where `workdir` holds a run whose config differs in a way that matters."""
    if not saved_steps(workdir):
        return
    changed = differences(read_meta(workdir)["config"], config.to_dict())
    if changed:
        raise UserError(
            f"{workdir} holds a run with another config, and resuming it would mix the two. What differs: "
            f"{'; '.join(changed)}. Take another --workdir, or undo the change. (log, checkpoint, eval, mesh, "
            f"data.{', data.'.join(FREE_DATA)} and a larger train.steps may change.)"
        )


def list_problems(workdir: Path, problems: Problems) -> None:
    """Add the records that could not be read to WORKDIR/bad_records.txt, each once."""
    path = workdir / "bad_records.txt"
    known = set(path.read_text().splitlines()) if path.is_file() else set()
    new = [text for text in (" ".join(p.split()) for p in problems.found.values()) if text not in known]
    if new:
        with open(path, "a") as file:
            file.writelines(f"{text}\n" for text in new)


def resume(run: Run, checkpoints: Checkpoints, data: Mapping[str, Any]) -> State | None:
    """The newest good checkpoint's state, or None where there is none.

    Raises:
      UserError: the data are not those that the checkpoint was trained on.
    """
    restored = checkpoints.restore(run.shapes)
    if restored is None:
        return None
    was = {k: v for k, v in restored.data.items() if k != "position"}
    now = json.loads(json.dumps(data))
    if was != now:
        what = "frozen networks" if was | {"frozen": now.get("frozen")} == now else "data"
        raise UserError(
            f"the {what} have changed since the checkpoint of step {restored.step}: it saw {was}, now it is {now}. "
            f"Training would not go on where it stopped; restore them, or take another --workdir."
        )
    return restored.state


def report(probes: Probes, state: State, workdir: Path) -> None:
    """The tables at the end: to the screen, as results.json, and with all details as results_full.json."""
    if not probes.protocols:
        return
    found = probes.final(state)
    if jax.process_index() == 0:
        weights = {"path": str(workdir), "step": int(state["step"])}
        full = full_json(found.results, found.health, configs=probes.configs(), weights=weights, **probes.facts())
        for name, content in (("results", results_json(found.results, found.health)), ("results_full", full)):
            (workdir / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
        print(f"\n{probes.table(found)}\n\nwritten to {workdir / 'results.json'}", flush=True)


PRETRAINING = Task("none", build, start, Probes, report)
