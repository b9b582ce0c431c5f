"""Collectives are counted from programs whose collectives are known."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mae_jax.ahead.collectives import axis_of, collectives, from_text, pairs, replica_groups, totals
from mae_jax.ahead.hlo import Program

P = PartitionSpec
AXES = {"data": 2, "fsdp": 4}


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


@pytest.fixture(scope="module")
def found(mesh):
    """A loop of 5 that sums [16, 8] over data and, in an inner loop of 3, over both; then one of every other kind."""

    def each(x, y):
        def inner(carry, _):
            return jax.lax.psum(jnp.sin(carry), ("data", "fsdp")), None

        def outer(carry, _):
            a, b = carry
            b, _ = jax.lax.scan(inner, b, None, length=3)
            return (jax.lax.psum(jnp.cos(a), "data"), b), None

        (x, y), _ = jax.lax.scan(outer, (x, y), None, length=5)
        gathered = jax.lax.all_gather(x, "fsdp", axis=0, tiled=True)  # [64, 8]
        part = jax.lax.psum_scatter(jnp.sin(gathered), "fsdp", scatter_dimension=0, tiled=True)
        turned = jax.lax.all_to_all(part, "data", 1, 0, tiled=True)  # of [16, 8]
        moved = jax.lax.ppermute(jnp.exp(turned), "fsdp", [(i, (i + 1) % 4) for i in range(4)])  # [32, 4]
        return moved, y

    program = jax.shard_map(
        each, mesh=mesh, in_specs=(P("data", "fsdp"), P()), out_specs=(P("data", "fsdp"), P()), check_vma=False
    )
    at = lambda shape, spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
    compiled = jax.jit(program).lower(at((32, 32), P("data", "fsdp")), at((10,), P())).compile()
    return collectives(compiled)


def test_counts_bytes_and_axes_are_those_of_the_program(found):
    assert all(c.known for c in found)
    assert totals(found) == {
        ("all-reduce", "data"): (5, 5 * 16 * 8 * 4),
        ("reduce-scatter", "fsdp"): (1, 64 * 8 * 4),
        ("all-gather", "fsdp"): (1, 64 * 8 * 4),
        ("all-reduce", "data+fsdp"): (15, 15 * 10 * 4),
        ("all-to-all", "data"): (1, 16 * 8 * 4),
        ("collective-permute", "fsdp"): (1, 32 * 4 * 4),
    }


def test_what_a_device_sends_is_that_of_a_ring(found):
    wire = {c.kind + c.axis: c.wire / c.count for c in found}
    assert wire["all-reducedata"] == 2 * (2 - 1) / 2 * 16 * 8 * 4
    assert wire["all-gatherfsdp"] == 3 / 4 * 64 * 8 * 4
    assert wire["collective-permutefsdp"] == 32 * 4 * 4


def test_the_sources_are_the_operations_that_were_traced(found):
    assert all("psum" in c.source for c in found if c.kind == "all-reduce")


def test_splitting_by_the_compiler_is_counted_too(mesh):
    """w is split, x by rows: the compiler gathers w [64, 32] over fsdp or sums over it; the mean is over everything."""
    at = lambda shape, spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
    loss = lambda w, x: jnp.mean(jnp.sin(x @ w))
    grad = jax.jit(jax.grad(loss), out_shardings=NamedSharding(mesh, P("fsdp")))
    found = collectives(grad.lower(at((64, 32), P("fsdp")), at((16, 64), P(("data", "fsdp")))).compile())
    sums = totals(found)
    assert sums["all-gather", "fsdp"] == (1, 64 * 32 * 4)
    assert sum(size for (kind, _), (_, size) in sums.items() if kind != "all-gather") >= 64 * 32 * 4


TPU = (Path(__file__).parent / "tpu_program.hlo").read_text()  # made up, in the words of libtpu 0.0.52


def test_a_tpu_program():
    """A gather fused with computation is one, in a loop from 2 to 12 by 2; a part of a sum is a reduce-scatter."""
    found = from_text(TPU, AXES)
    assert [(c.kind, c.count, c.bytes, c.axis, c.dtype, c.source) for c in found] == [
        ("all-gather", 5, 5 * 32 * 16 * 2, "fsdp", "bf16", "jit(step)/squeeze"),
        ("reduce-scatter", 5, 5 * 32 * 16 * 2, "fsdp", "bf16", ""),
        ("all-reduce", 1, 5 * 4, "data+fsdp", "f32", "jit(step)/reduce_sum"),
    ]


@pytest.mark.parametrize(
    ("result", "operation", "size"),
    [
        ("f32[8]", "reduce-scatter(%x)", 256),
        ("((f32[64]), f32[8])", "reduce-scatter-start(%x)", 256),  # GPUs: of f32[64]
        ("((f32[64]), f32[8], u32[])", "reduce-scatter-start(%x)", 256),
        ("((f32[64], f32[64]), (f32[8], f32[8]))", "reduce-scatter-start(%x, %y)", 512),
        ("((f32[64]), f32[64])", "all-to-all-start(%x)", 256),
        ("(f32[8], f32[64])", "all-gather-start(%x)", 256),
        ("((f32[8], f32[8]), (f32[64], f32[64]))", "all-gather-start(%x, %y)", 512),
        ("(f32[64], f32[64], u32[], u32[])", "collective-permute-start(%x)", 256),
        ("f32[64]", "all-reduce-start(%x)", 256),
        ("(f32[64], f32[64])", "all-reduce-start(%x, %y)", 512),
        ("((f32[64]), f32[64])", "all-reduce-start(%x)", 256),
    ],
)
def test_bytes_of_asynchronous_ones_are_those_of_what_they_make(result, operation, size):
    groups = "source_target_pairs={{0,1}}" if "permute" in operation else "replica_groups={{0,1,2,3,4,5,6,7}}"
    text = f"ENTRY %main (x: f32[64]) -> f32[8] {{\n  %r = {result} {operation}, channel_id=1, {groups}\n}}\n"
    (found,) = from_text(text, {"fsdp": 8})
    assert found.bytes == size


def test_a_loop_whose_length_is_not_known_counts_once_and_says_so():
    found = from_text(TPU.replace("direction=LT", "direction=NE"), AXES)
    assert [(c.count, c.known) for c in found] == [(1, False), (1, False), (1, True)]


def test_trip_counts_that_xla_notes_win():
    loop = next(i for i in Program(TPU).instructions("main").values() if i.opcode == "while")
    assert Program(TPU).trips(loop, "main") == 5
    noted = TPU.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"11"}}')
    assert [c.count for c in from_text(noted, AXES)] == [11, 11, 1]


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, x", [(0, 1), (2, 3)]),
        ("replica_groups=[2,2]<=[4]", [(0, 1), (2, 3)]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", [(0, 2), (1, 3), (4, 6), (5, 7)]),
        ("replica_groups=mesh['a'=4], device_ids=([2,2]T(1,0)) {'a':(1)2}", [(0, 1), (2, 3)]),
        ("replica_groups={}", [(0, 1, 2, 3)]),
    ],
)
def test_groups_in_every_way_of_writing(text, groups):
    assert sorted(tuple(sorted(g)) for g in replica_groups(text, 4)) == groups


def test_axes_of_groups():
    assert axis_of([(0, 1, 2, 3), (4, 5, 6, 7)], AXES) == "fsdp"
    assert axis_of([(0, 4), (1, 5), (2, 6), (3, 7)], AXES) == "data"
    assert axis_of([tuple(range(8))], AXES) == "data+fsdp"
    assert axis_of([(0, 1), (2, 3), (4, 5), (6, 7)], AXES) == "fsdp"  # halves of its rings
    assert axis_of([(k,) for k in range(8)], AXES) == ""
    assert axis_of([(0, 9)], AXES) == "?"
    assert pairs("source_target_pairs={{0,1},{1,2},{2,3},{3,0}}") == [(0, 1, 2, 3)]
