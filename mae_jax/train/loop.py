"""The training loop: everything around the step. Reads from top to bottom as a run happens."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from mae_jax.config import FREE_DATA, differences, resolve
from mae_jax.core.chips import mfu
from mae_jax.core.errors import UserError
from mae_jax.core.exits import DONE, FAILED, GIVEN_UP, INTERRUPTED, RESTART
from mae_jax.core.mesh import replicated
from mae_jax.data.batches import Problems
from mae_jax.data.pipeline import fingerprint
from mae_jax.eval.reconstruct import reconstructor
from mae_jax.eval.report import full_json, results_json
from mae_jax.methods.base import Method
from mae_jax.schema import Config
from mae_jax.train import rollback
from mae_jax.train.build import Run, build
from mae_jax.train.checkpoint import Checkpoints, Restored, read_meta, saved_steps
from mae_jax.train.feed import train_batches
from mae_jax.train.full_disk import patient_streams, replace_text, skipped
from mae_jax.train.hosts import Hosts
from mae_jax.train.inputs import strange
from mae_jax.train.numbers import Numbers, Record, order_at
from mae_jax.train.parity import Parity
from mae_jax.train.pictures import save_step, spread
from mae_jax.train.plots import plot_run
from mae_jax.train.probing import Probes
from mae_jax.train.profile import Profile
from mae_jax.train.progress import Progress
from mae_jax.train.signals import Preemption
from mae_jax.train.stall import Stall
from mae_jax.train.state import State, rest_of
from mae_jax.train.summary import summary
from mae_jax.train.warm_start import warm_start
from mae_jax.train.watchdog import Watchdog
from mae_jax.train.writers import Writers

AGAIN = "When there is room, the same command goes on from the newest checkpoint."
# How the steps end: all are done, a signal, too many bad numbers in a row, copies of the weights that differ.
End = Literal["done", "stopped", "wrong", "diverged"]


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


@patient_streams()
def train(config: Config, workdir: Path, task: Task | None = None, profile: tuple[int, int] | None = None) -> int:
    """Train to the end of the schedule, or until a signal; resume where `workdir` left off.

    Args: profile: steps after the first and up to the second are traced (train/profile.py).
    Returns: the exit status (core/exits.py): DONE, INTERRUPTED, GIVEN_UP, RESTART, or FAILED where the last state could
      not be saved.
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
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use {workdir} as --workdir: {error.strerror}. Name a directory.") from None
    data = {"batch": config.train.batch, "seed": config.train.seed, "source": fingerprint(source)}
    if run.frozen_hashes:  # reads the files: a wrong one is named before anything else happens
        data["frozen"] = run.frozen_hashes
    ended: int | Record = Record()
    while isinstance(ended, Record):  # a roll-back is a restart that stays in this process
        ended = attempt(task, run, workdir, source, test, scores, data, profile)
    return ended


def attempt(
    task: Task, run: Run, workdir: Path, source: Any, test: Any, scores: Any, data: dict[str, Any],
    profile: tuple[int, int] | None,
) -> int | Record:  # fmt: skip
    """Resume or start, and train until something ends it -> the exit status, or the record of a roll-back: go on."""
    config, lead = run.config, jax.process_index() == 0
    with (
        Checkpoints(
            workdir, keep=config.checkpoint.keep, best=config.checkpoint.best, retry=-(-config.checkpoint.every // 4)
        ) as checkpoints,
        Preemption() as preemption,
        Hosts(config.guard.heartbeat, lambda: preemption.requested) as hosts,
    ):
        restored = resume(run, checkpoints, data)
        state = task.start(run) if restored is None else restored.state
        start = int(state["step"])
        record = rollback.record_of(workdir, start, None if restored is None else restored.data.get("guard"))
        del restored  # it holds the arrays that the first step takes over
        writers = Writers(
            workdir, tensorboard=config.log.tensorboard, resume_step=start, config=config.to_dict(), active=lead,
            wandb={"project": config.log.wandb, "name": workdir.name} if config.log.wandb else None,
        )  # fmt: skip
        if lead:
            with skipped(f"writing {workdir / 'config.json'}"):
                replace_text(workdir / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")
            print(summary(run, workdir, source.describe(), start), file=sys.stderr, flush=True)
        numbers = Numbers(config.guard, record, int(state["guard"]["skipped"]))
        loop = Loop(run, workdir, checkpoints, writers, data, source, test, scores, numbers, hosts)
        loop.profile = Profile(profile, workdir, start)
        try:
            state, end = loop.run(state, start)
            if end in ("done", "stopped"):
                checkpoints.settle(state)
        finally:
            writers.close()
        if end == "wrong":
            if record.tries < config.guard.rollbacks:
                back = rollback.roll_back(workdir, numbers, checkpoints.steps())
                checkpoints.forget_after(back.at or -1)
                return back
            rollback.give_up(run, source, workdir, numbers)
            return GIVEN_UP
        if end == "diverged":
            return RESTART
        if end == "stopped":
            step = int(state["step"])
            told = "the same command resumes."
            if checkpoints.failed:
                told = f"its state is lost: {checkpoints.failed} {AGAIN}"
            who = preemption.received or "a signal to another process"
            print(f"stopped by {who} after step {step}; {told}", file=sys.stderr)
            return INTERRUPTED
        if checkpoints.failed:
            print(f"mae_jax: the last step is done, but {checkpoints.failed} {AGAIN}", file=sys.stderr, flush=True)
            return FAILED
        if lead:
            with skipped("curves.png"):
                plot_run(workdir)
        task.report(scores, state, workdir)
    return DONE


class Loop:
    """The steps of one run, and what happens every so many of them.

    Args:
      data: what identifies the data; saved with every checkpoint and compared on resume.
    """

    def __init__(
        self, run: Run, workdir: Path, checkpoints: Checkpoints, writers: Writers, data: dict[str, Any],
        source: Any, test: Any, probes: Any, numbers: Numbers, hosts: Hosts,
    ):  # fmt: skip
        self.built, self.workdir, self.checkpoints, self.writers, self.data = run, workdir, checkpoints, writers, data
        self.source, self.test = source, test
        self.config = run.config
        self.probes, self.numbers, self.hosts = probes, numbers, hosts
        guard = self.config.guard
        self.watchdog = Watchdog(
            guard.hang_factor, guard.hang_floor, guard.hang_exit, workdir / rollback.FOLDER, hosts.index,
            hosts.leave if hosts.count > 1 else None,
        )  # fmt: skip
        self.parity = Parity(run.shapes["params"], run.mesh)
        self.pictures = reconstructor(
            run.method, run.augment, sharding=replicated(run.mesh), steps=run.config.train.steps
        )
        self.profile = Profile(None, workdir)
        self.scores: dict[str, float] = {}  # of this step; by them the best checkpoint is chosen

    def run(self, state: State, start: int) -> tuple[State, End]:
        """Train from step `start` -> (state, how it ended)."""
        config, run, numbers, watchdog = self.config, self.built, self.numbers, self.watchdog
        total, log = config.train.steps, config.log
        batches = train_batches(run, self.source, start, order_at(numbers.record.history, start))
        progress = Progress(total, batch=config.train.batch, start=start, active=jax.process_index() == 0)
        before: dict[str, jax.Array] | None = None
        replaced = 0  # samples since the last logged step that could not be decoded
        stall = Stall()
        due: tuple[int, dict[str, Any]] | None = None  # logged when the next step is under way
        compiled: list[Any] = []
        watchdog.start()
        try:
            for step in range(start, total):
                self.profile.at(step, before, progress)
                now, plan = run.at(step), run.at(step).method.plan(step)
                if (now.method, plan) not in compiled:
                    compiled.append((now.method, plan))
                    watchdog.compiles()
                host = stall.take(batches, before)
                if step == start and jax.process_index() == 0:
                    for line in strange(host, now.method, config.augment):
                        print(f"mae_jax: {line}", file=sys.stderr, flush=True)
                replaced += int(host["replaced"].sum())
                state, metrics = now.step(state, run.frozen, now.put(host), plan, numbers.limit)
                done = step + 1
                if due is not None:
                    self.log(*due, progress)
                    due = None
                if before is not None:
                    jax.block_until_ready(before)  # the host runs one step ahead, never more
                before = metrics
                wrong = numbers.took(done, metrics) or (done == total and numbers.flush())
                watchdog.beat(done)
                if done % log.every == 0 or done == total or done == 1:
                    wait = stall.share()
                    due = done, metrics | {"data/replaced": replaced, "data/wait": wait}
                    replaced = 0
                    if done > start + 1:
                        stall.advise(wait)
                stop = done < total and self.hosts.stops_at(done)
                owed = self.checkpoints.owed(done, metrics)
                if stop or wrong or owed or self.pauses_at(done):
                    if due is not None:
                        self.log(*due, progress)
                        due = None
                    if wrong:
                        return state, "wrong"
                    with progress.paused(), watchdog.paused():
                        saves = stop or owed or done % config.checkpoint.every == 0 or done == total
                        if (saves or due_every(config.guard.parity, done)) and self.differ(done, state):
                            return state, "diverged"
                        try:
                            self.probe(done, state)
                        except Exception:
                            if saves and jax.process_count() == 1:  # of several, the others wait elsewhere
                                self.save(done, state)
                            raise
                        if saves:
                            self.save(done, state)
                        self.draw(done, state)  # after the save, which no picture may cost
                if stop:
                    return state, "stopped"
        except BaseException as error:
            self.hosts.tell(error)  # of several processes none may wait here for one that is gone
            raise
        finally:
            watchdog.close()
            self.profile.close(before)
            progress.close()
            batches.close()
            with skipped("bad_records.txt"):
                list_problems(self.workdir, batches.problems)
            self.checkpoints.wait()
        return state, "done"

    def pauses_at(self, step: int) -> bool:
        """Whether anything but the next train step is due after `step`."""
        c = self.config
        periods = (c.eval.every, c.log.pictures_every, c.checkpoint.every, c.guard.parity * self.parity.copies)
        return step == c.train.steps or any(due_every(period, step) for period in periods)

    def differ(self, step: int, state: State) -> bool:
        """Whether the copies of the weights differ, which is said; what is saved is only what they agree on."""
        if not self.config.guard.parity or not self.parity.copies:
            return False
        odd = self.parity(state["params"])
        if odd and jax.process_index() == 0:
            print(
                f"mae_jax: the copies of the weights are not the same after step {step}: {odd}. The run ends; the same "
                f"command resumes from the last checkpoint, with equal copies. If it happens again in the same place, "
                f"take that device or host out.",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        return bool(odd)

    def log(self, step: int, metrics: Mapping[str, Any], progress: Progress) -> None:
        """Write one logged step."""
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        shown = {"loss": values["loss"], "lr": values["lr"]}
        progress.update(step, shown, mfu=self.mfu(step, progress.rate))
        if progress.rate is not None:
            values["images_per_second"] = progress.rate * self.config.train.batch
            if (used := self.mfu(step, progress.rate)) is not None:
                values["mfu"] = used
        self.writers.scalars(step, values)

    def mfu(self, step: int, steps_per_second: float | None) -> float | None:
        """Model FLOPs utilisation at this rate, where chip and cost are known."""
        cost = self.built.at(step - 1).method.cost()
        if cost is None or steps_per_second is None:
            return None
        mesh, rate = self.built.mesh, steps_per_second * self.config.train.batch
        return mfu(rate, cost.step, mesh.devices.flat[0].device_kind, mesh.size)

    def probe(self, step: int, state: State) -> None:
        """Online probes, when they are due."""
        self.scores = {}
        if due_every(self.config.eval.every, step):
            self.scores = self.probes.online(state)
            self.writers.scalars(step, self.scores)

    def draw(self, step: int, state: State) -> None:
        """A reconstruction picture of some test images, to all writers, when it is due."""
        log, method = self.config.log, self.built.method
        due = step == self.config.train.steps or due_every(log.pictures_every, step)
        if not due or log.pictures < 1 or type(method).pictures is Method.pictures:  # none: spare the compilation
            return
        batch = spread(self.built, self.test, log.pictures)
        drawn = self.pictures(state["params"], rest_of(state, self.built.frozen), batch, 0)
        if drawn and jax.process_index() == 0:
            with skipped(f"the picture of step {step}"):
                self.writers.images(step, "reconstruction", save_step(self.built, self.workdir, step, drawn))

    def save(self, step: int, state: State) -> None:
        """Start saving a checkpoint; `data.position` is the number of the next batch."""
        self.writers.flush()  # a resumed run goes on from here: its lines up to here must be there
        data = self.data | {"position": step, "guard": self.numbers.to_save()}
        self.checkpoints.save(step, state, data=data, config=self.config.to_dict(), metrics=self.scores)


def due_every(period: int, step: int) -> bool:
    """Whether what happens every `period` steps (0: never) is due after `step`."""
    return period > 0 and step % period == 0


def start(run: Run) -> State:
    """A fresh state, from other weights where train.init names a run."""
    return warm_start(run, run.config.train.init) or run.init()


def refuse_other_config(config: Config, workdir: Path) -> None:
    """Raise UserError where `workdir` holds a run whose config differs in a way that matters."""
    if not saved_steps(workdir):
        return
    old = read_meta(workdir)["config"]
    with contextlib.suppress(UserError):
        old = resolve(old).to_dict()  # keys that are newer than that run have their defaults
    changed = differences(old, config.to_dict())
    if changed:
        raise UserError(
            f"{workdir} holds a run with another config, and resuming it would mix the two. What differs: "
            f"{'; '.join(changed)}. Take another --workdir, or undo the change. (log, checkpoint, eval, mesh, "
            f"guard, data.{', data.'.join(FREE_DATA)} and a larger train.steps may change.)"
        )


def list_problems(workdir: Path, problems: Problems) -> None:
    """Add the records that could not be read to WORKDIR/bad_records.txt, each once."""
    path = workdir / "bad_records.txt"
    known = set(path.read_text().splitlines()) if path.is_file() else set()
    new = [text for text in (" ".join(p.split()) for p in problems.found.values()) if text not in known]
    if new:
        with open(path, "a") as file:
            file.writelines(f"{text}\n" for text in new)


def resume(run: Run, checkpoints: Checkpoints, data: Mapping[str, Any]) -> Restored | None:
    """The newest good checkpoint, or None where there is none.

    Raises:
      UserError: the data are not those that the checkpoint was trained on.
    """
    restored = checkpoints.restore(run.shapes)
    if restored is None:
        return None
    was = {k: v for k, v in restored.data.items() if k not in ("position", "guard")}
    now = json.loads(json.dumps(data))
    if was != now:
        what = "frozen networks" if was | {"frozen": now.get("frozen")} == now else "data"
        raise UserError(
            f"the {what} have changed since the checkpoint of step {restored.step}: it saw {was}, now it is {now}. "
            f"Training would not go on where it stopped; restore them, or take another --workdir."
        )
    return restored


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
