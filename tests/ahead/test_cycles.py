"""benchmarks/cycles.py: what is summed, and how often."""

import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROGRAM = (Path(__file__).parent / "tpu_program.hlo").read_text()
KERNEL = '  %attention_lanes_forward.3 = bf16[8,50,128]{2,1,0} custom-call(%x), custom_call_target="tpu_custom_call"\n'


@pytest.fixture
def cycles(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import cycles

    yield cycles
    sys.modules.pop("cycles")


def test_operations_count_as_often_as_their_loop_runs(cycles):
    """The program's loop goes from 2 to 12 by 2; what is inside a fusion is part of it."""
    estimated = ', backend_config={"window_config":{"estimated_cycles":"100"}}'
    text = re.sub(r"(%fusion\.8 = .*)", rf"\1{estimated}", PROGRAM)
    text = re.sub(r"(  %input = .*)", rf"\1{estimated}", text)
    text = text.replace("  %constant.2 = f32[]", f"{KERNEL}  %constant.2 = f32[]")
    found = list(cycles.costs(text, lambda name: {"attention_lanes_forward.3": 7000}[name]))
    assert sorted((loop, what, count, times) for loop, what, count, times in found) == [
        ("body", "", 100, 5),
        ("main", "attention_lanes_forward", 7000, 1),
    ]


def test_a_kernel_is_its_schedule_times_its_turns(cycles, tmp_path):
    name = "attention_lanes_forward.3"
    with pytest.raises(SystemExit, match="no schedule of attention_lanes_forward.3"):
        cycles.scheduled(name, KERNEL, tmp_path, {})
    said = "Schedule analysis:\n\ttotal scheduled bundles:    532\n"
    (tmp_path / f"17-{name}-02-schedule-analysis_final_bundles.txt").write_text(said)
    assert cycles.scheduled(name, KERNEL, tmp_path, {(8, 50, 128): 4}) == 4 * 532
    twice = KERNEL + KERNEL.replace("forward.3", "forward.4")  # the same kernel again, which has no file of its own
    assert cycles.scheduled("attention_lanes_forward.4", twice, tmp_path, {(8, 50, 128): 4}) == 4 * 532


def test_turns_are_those_of_the_kernels_that_are_traced(cycles, monkeypatch):
    """Eight samples of 50 tokens, four to a turn, and two blocks of 128 numbers."""
    import jax

    from mae_jax.nets import attention_lanes

    monkeypatch.setattr(attention_lanes.Cut, "of", attention_lanes.Cut.of)  # put back afterwards
    turns = cycles.counted()
    shape = jax.ShapeDtypeStruct((8, 50, 768), "bfloat16")
    jax.eval_shape(jax.grad(lambda x: attention_lanes.lanes(x, None, 4, 0.125).astype("float32").sum()), shape)
    assert turns == {(8, 50, 256): 2 * 2, (8, 50, 768): 2 * 2}
