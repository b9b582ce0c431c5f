"""What is advised where a step does not fit: only settings that build."""

import pytest
from tiny_runs import config_file, tiny

from mae_jax.ahead import program, report, step
from mae_jax.ahead.topology import topology

MIB = 2**20


def too_large(file, *overrides):
    """The figures of a step that needs a terabyte, as if it had been compiled for the eight devices here."""
    asked, place = step.ask(str(file), overrides), topology("local")
    state = {"parameters": 400 * MIB, "optimizer": 800 * MIB}
    return program.Figures(
        run=step.make_run(asked, place.devices), topology=place, memory=program.Memory(2**40, 0), refused="",
        limit=1.0, state=state, formula=None, traced=0.0, moved=None, collectives=None, roofline=None, seconds=0.0,
        asked=asked,
    )  # fmt: skip


def named(found):
    """The settings of the lines that name some."""
    return [line.partition(":")[0] for line in report.advice(found) if line.startswith("--config.")]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return config_file(tmp_path_factory.mktemp("report") / "c.py", tiny("train.batch=32"))


@pytest.mark.parametrize(
    "overrides, splits",
    [
        ((), "--config.mesh.fsdp=4"),
        (("mesh.fsdp=4",), "--config.mesh.fsdp=8"),
        (("mesh.fsdp=8",), None),
        (("mesh.fsdp=2", "mesh.tensor=2"), "--config.mesh.fsdp=4"),  # 8 devices are 4 x 2
        (("mesh.fsdp=4", "mesh.tensor=2"), None),
        (("mesh.data=8",), "--config.mesh.data=-1 --config.mesh.fsdp=4"),
        (("mesh.slices=2", "mesh.fsdp=2"), "--config.mesh.fsdp=4"),  # a slice has 4
        (("mesh.slices=2", "mesh.fsdp=4"), None),
    ],
)
def test_fsdp_is_advised_as_far_as_it_builds(file, overrides, splits):
    found = [line for line in named(too_large(file, *overrides)) if "fsdp" in line]
    assert found == ([splits] if splits else [])
    for line in found:
        step.make_run(step.ask(str(file), [*overrides, *line.replace("--config.", "").split()]),
                      topology("local").devices)  # fmt: skip


def test_what_splitting_saves_is_that_of_the_devices_it_reaches(file):
    (line,) = (line for line in report.advice(too_large(file, "mesh.slices=2", "mesh.fsdp=2")) if "fsdp" in line)
    assert "over 4 devices it saves 0.59 GiB" in line  # half of 1200


def test_microbatches_are_not_advised_where_samples_hang_together(file):
    assert "--config.train.microbatches=2" in named(too_large(file))
    croma = too_large("configs/croma/tiny_sensors.py", "train.batch=16", "eval.batch=16")
    assert not [line for line in named(croma) if "microbatches" in line]
