"""`--profile A:B`: which steps are in the trace, and whether the table says of them what jax's own files say."""

import gzip
import json
import re
from collections import defaultdict

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData
from jax.sharding import NamedSharding, PartitionSpec

from mae_jax.commands.main import main
from mae_jax.core.errors import UserError
from mae_jax.train.profile import Profile, parse_span, top_ops, where
from mae_jax.train.progress import Progress
from mae_jax.train.xplane import Op, Origin, _key, fields, origins, read_ops


@pytest.mark.parametrize(
    "text, says",
    [
        ("20", "A:B is expected"), ("-1:3", "A:B is expected"), ("a:b", "A:B is expected"), ("20:25:1", "A:B"),
        ("25:20", "A < B"), ("20:20", "A < B"), ("20:41", "has 40 steps"), ("0:101", "100 at most"),
    ],
)  # fmt: skip
def test_a_bad_span_is_refused(text, says):
    with pytest.raises(UserError, match=says):
        parse_span(text, 40 if text != "0:101" else 1000)
    assert parse_span("20:40", 40) == (20, 40)


def test_it_is_refused_before_anything_is_written(tmp_path, capsys):
    argv = ["train", "--config", "configs/mae/tiny_digits.py", "--workdir", str(tmp_path / "run")]
    assert main([*argv, "--profile", "9:3"]) == 2 and "A < B" in capsys.readouterr().err
    assert main([*argv, "--profile", "3:9", "--debug"]) == 2 and "--debug" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_where():
    path = "blocks/Block/mlp/fc1/dot_general"
    assert where(f"jit(step)/jvp(Encoder)/{path}") == ("Encoder/blocks/Block/mlp/fc1", "")
    assert where(f"jit(step)/transpose(jvp(Encoder))/{path}") == ("Encoder/blocks/Block/mlp/fc1", "backward")
    scanned = f"jit(step)/transpose(jvp(Encoder))/while/body/closed_call/checkpoint/rematted_computation/{path}"
    assert where(scanned) == ("Encoder/blocks/Block/mlp/fc1", "recomputed")
    assert where("jit(step)/jit(_where)/select_n") == ("", "") and where("") == ("", "")


def test_the_table_adds_up():
    """Instructions of one module are one row; ms are per step and device; the optimizer is known by its source."""
    layer, update = Origin("jit(step)/jvp(Encoder)/mlp/dot_general", "x.py:1"), Origin("jit(step)/mul", "step.py:94")
    ops = [Op("jit_step", "dot.3", layer, 6e6, 12), Op("jit_step", "dot.14", layer, 2e6, 12)]
    ops += [Op("jit_step", "multiply_fusion", update, 1.5e6, 12), Op("jit_save", "copy.1", Origin(), 0.5e6, 4)]
    lines = top_ops(ops, steps=2, seconds=0.02, devices=2, shown=2).splitlines()
    assert lines[0].startswith("  10.00 ms per step") and "2.50 ms per step and device" in lines[0]
    assert lines[2].split() == ["80.0%", "2.000", "6.0", "dot", "Encoder/mlp"]
    assert lines[3].split() == ["15.0%", "0.375", "3.0", "multiply_fusion", "step.py:94"]
    assert lines[4].split() == ["5.0%", "0.125", "1", "others"]
    assert "jit_save: ?" in top_ops(ops, 2, 0.02, 2)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Three calls of a small program on four devices -> (its trace, its text)."""
    directory = tmp_path_factory.mktemp("trace")
    rows = NamedSharding(jax.make_mesh((4,), ("data",), devices=jax.devices()[:4]), PartitionSpec("data"))

    def layer(x, w):
        with jax.named_scope("mlp"):
            return jnp.tanh(x @ w), None

    def loss_of_this_file(w, x):
        with jax.named_scope("net"):
            return jnp.sum(jax.lax.scan(layer, x, w)[0] ** 2)

    w = jax.device_put(jnp.ones((3, 8, 8)), NamedSharding(rows.mesh, PartitionSpec()))
    x = jax.device_put(jnp.ones((16, 8)), rows)
    step = jax.jit(jax.value_and_grad(loss_of_this_file)).lower(w, x).compile()
    jax.profiler.start_trace(directory)
    for _ in range(3):
        jax.block_until_ready(step(w, x))
    jax.profiler.stop_trace()
    (trace,) = directory.rglob("*.xplane.pb")
    return trace, step.as_text()


def test_times_are_those_of_jax(small):
    """Of operations that hold no others: the durations that XLA's own converter wrote for the trace viewer."""
    trace, _ = small
    viewer = trace.with_name(trace.name.replace("xplane.pb", "trace.json.gz"))
    theirs = defaultdict(float)
    for event in json.loads(gzip.decompress(viewer.read_bytes()))["traceEvents"]:
        if (args := event.get("args", {})) and "hlo_op" in args:
            theirs[args["hlo_module"], args["hlo_op"]] += event["dur"] * 1e3  # microseconds
    ours = {(op.program, op.name): op for op in read_ops(trace)}
    assert ours.keys() == theirs.keys() and len(ours) > 5
    loops = [key for key in ours if key[1].startswith("while")]
    assert len(loops) == 2  # forward and backward: what is inside them is not counted twice
    for key, op in ours.items():
        if key in loops:
            assert 0 <= op.ns < theirs[key]
        else:
            assert op.ns == pytest.approx(theirs[key], rel=1e-3, abs=200), key
    calls = {op.calls for op in ours.values() if op.name.startswith("dot")}
    assert calls <= {3 * 4, 3 * 4 * 3} and calls  # calls x devices, inside the scan x 3 layers


def test_origins_are_those_of_the_program(small):
    """The scopes of every instruction, from XLA's own text of the program."""
    trace, printed = small
    programs = {op.program for op in read_ops(trace) if "loss_of_this_file" in op.program}
    (found,) = origins(trace.read_bytes(), programs).values()
    theirs = dict(re.findall(r'%([\w.\-]+) = [^\n]*metadata=\{op_name="([^"]+)"', printed))
    both = theirs.keys() & found.keys()
    assert len(both) > 10
    assert {name: found[name].op_name for name in both} == {name: theirs[name] for name in both}
    named = {where(op.origin.op_name) for op in read_ops(trace)}
    assert ("net/mlp", "") in named and ("net/mlp", "backward") in named


def session(workdir, name):
    return workdir / "profile/plugins/profile" / name


def annotated(path):
    """The numbers of the steps in a trace, as xprof finds them."""
    events = (e for p in ProfileData.from_file(str(path)).planes for line in p.lines for e in line.events)
    return [dict(event.stats)["step_num"] for event in events if event.name == "train"]


def go(profile, steps, total):
    """What the loop does around its steps, on a small program."""
    step, x, done = jax.jit(lambda x: jnp.sin(x) @ x), jnp.ones((8, 8)), None
    try:
        for number in steps:
            profile.at(number, done, Progress(total, active=False))
            done = step(x)
    finally:
        profile.close(done)


def test_the_steps_asked_for_are_traced_and_a_run_goes_on_inside_them(tmp_path, capsys):
    """tests/launch/test_local.py does the same with a training run."""
    go(Profile((2, 5), tmp_path), range(9), 9)
    said = capsys.readouterr().out
    (trace,) = session(tmp_path, "steps_2_5").glob("*.xplane.pb")
    assert sorted(annotated(trace)) == [2, 3, 4] and trace.with_name(f"{trace.name[:-9]}trace.json.gz").is_file()
    assert said.startswith("profile of steps 2:5\n") and "train/test_profile.py:" in said
    assert (trace.parent / "top_ops.txt").read_text() == said[: said.index("\n  trace: ") + 1]
    assert any(re.fullmatch(r"train/test_profile.py:\d+", op.origin.source) for op in read_ops(trace))
    go(Profile((2, 5), tmp_path, start=3), range(3, 9), 9)
    (trace,) = session(tmp_path, "steps_3_5").glob("*.xplane.pb")
    assert sorted(annotated(trace)) == [3, 4]
    go(Profile((2, 5), tmp_path), range(4), 9)  # stopped by a signal after step 4
    (trace,) = session(tmp_path, "steps_2_4").glob("*.xplane.pb")
    assert sorted(annotated(trace)) == [2, 3] and "profile of steps 2:4" in capsys.readouterr().out
    assert not list(tmp_path.glob(".profile_*"))


def test_a_run_past_its_span_goes_on(tmp_path, capsys):
    """A launcher starts the same command again: that must not be refused."""
    profile = Profile((2, 5), tmp_path, start=5)
    assert "past --profile=2:5" in capsys.readouterr().out
    profile.at(5, None, Progress(6, active=False))
    profile.close(None)
    assert not list(tmp_path.iterdir())


def test_a_broken_message_is_a_value_error():
    whole = b"\x0a\x03abc\x10\x96\x01"
    assert [(n, bytes(v) if n == 1 else v) for n, v in fields(memoryview(whole))] == [(1, b"abc"), (2, 150)]
    for cut in (1, 3, 6, 7):
        with pytest.raises(ValueError):
            list(fields(memoryview(whole[:cut])))


def test_kernels_of_a_cuda_graph_count_as_their_instructions():
    """As an H200 names them: the graph as hlo_op, the instruction in the kernel's name."""
    graph = {"hlo_module": "jit_step", "hlo_op": "command_buffer.3"}
    assert _key("loop_add_fusion_12", graph) == ("jit_step", "loop_add_fusion.12", "")
    assert _key("nvjet_sm90_tst_128x160_64x5_2x1_v_bz_TNT", graph)[1] == "nvjet_sm90_tst_128x160_64x5_2x1_v_bz_TNT"
    assert _key("fusion_7", {"hlo_module": "jit_step", "hlo_op": "fusion.7"})[1] == "fusion.7"
