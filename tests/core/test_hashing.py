"""The content hash: the same under any sharding, on the device and in numpy; sees every flipped bit and every
swap.
"""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mae_jax.core.hashing import array_hash, device_hash, tree_hash

DTYPES = (
    np.bool_,
    np.int8,
    np.uint8,
    np.int16,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    np.int32,
    np.uint32,
    np.float32,
)


def random_array(dtype, shape, seed=0):
    bits = np.random.default_rng(seed).integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    if dtype is np.bool_:
        return (bits[..., 0] & 1).astype(np.bool_)
    return bits.view(dtype)[..., 0]


def plain_hash(words):
    """The definition, in Python integers."""
    m = 0xFFFFFFFF

    def murmur3(x):
        x = ((x ^ x >> 16) * 0x85EBCA6B) & m
        x = ((x ^ x >> 13) * 0xC2B2AE35) & m
        return x ^ x >> 16

    def lowbias32(x):
        x = ((x ^ x >> 16) * 0x7FEB352D) & m
        x = ((x ^ x >> 15) * 0x846CA68B) & m
        return x ^ x >> 16

    a = sum(murmur3(w ^ lowbias32((p * 0x9E3779B1 + 0x85EBCA77) & m)) for p, w in enumerate(words)) & m
    b = sum(lowbias32((w + p * 0x7FEB352D + 0xC2B2AE3D) & m) for p, w in enumerate(words)) & m
    return a, b


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (7,), (3, 5, 4)])
def test_device_numpy_and_definition_agree(dtype, shape):
    x = random_array(dtype, shape)
    words = np.ascontiguousarray(x).reshape(-1).view(f"u{x.dtype.itemsize}").tolist()
    assert array_hash(x) == plain_hash(words)
    assert tree_hash({"x": jnp.asarray(x)}) == {"x": array_hash(x)}


def test_published_value_of_murmur3():
    # MurmurHash3 x86_32 of the empty string with seed 1 is fmix32(1) = 0x514E28B7 (SMHasher).
    from mae_jax.core import hashing

    assert hashing._murmur3(np.array([1], np.uint32))[0] == 0x514E28B7


def test_64_bit_arrays_hash_as_two_words():
    x = np.arange(5, dtype=np.int64) << 33
    assert array_hash(x) == plain_hash(x.view(np.uint32).tolist())
    with jax.enable_x64(True):
        assert tree_hash({"x": jnp.asarray(x)}) == {"x": array_hash(x)}


def test_chunks_of_the_numpy_twin_join():
    x = random_array(np.float32, (70_001,))
    assert tree_hash({"x": jnp.asarray(x)}) == {"x": array_hash(x)}


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int8])
def test_every_single_flipped_bit_is_seen(dtype):
    x = random_array(dtype, (3, 5))
    whole = array_hash(x)
    for bit in range(x.nbytes * 8):
        y = x.copy()
        y.reshape(-1).view(np.uint8)[bit // 8] ^= 1 << (bit % 8)
        changed = array_hash(y)
        assert changed[0] != whole[0] and changed[1] != whole[1]  # each half alone sees it
    assert array_hash(np.zeros(1, np.float32)) != array_hash(-np.zeros(1, np.float32))


def test_swaps_and_shifts_are_seen():
    x = np.arange(60, dtype=np.float32).reshape(6, 10)
    others = [x.T.reshape(6, 10), x[::-1], np.roll(x, 1, 0), np.roll(x, 1, 1), x[:, ::-1], np.zeros_like(x)]
    swapped = x.copy()
    swapped[2, 3], swapped[5, 1] = x[5, 1], x[2, 3]
    hashes = {array_hash(y) for y in [x, swapped, *others]}
    assert len(hashes) == 8
    assert len({array_hash(np.zeros(n, np.float32)) for n in range(2000)}) == 2000  # padding with zeros counts too


@pytest.mark.parametrize("spec", [("data",), (None, "fsdp"), ("data", "fsdp"), (("data", "fsdp"),), ()])
def test_the_same_under_any_sharding(spec):
    x = random_array(np.float32, (16, 24, 3))
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "fsdp"))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
    assert tree_hash([sharded]) == {"0": array_hash(x)}


def test_a_sharded_array_is_hashed_where_it_lies():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "fsdp"))
    x = jax.ShapeDtypeStruct((16, 24), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec("data", "fsdp")))
    text = device_hash.lower(x).compile().as_text()
    collectives = set(
        re.findall(r"\b(all-gather|all-to-all|collective-permute|reduce-scatter|all-reduce)\b(?=\()", text)
    )
    assert collectives == {"all-reduce"}


def test_arrays_without_a_hash_are_refused_by_name():
    with pytest.raises(TypeError, match=r"'opt/rng'.*key_data"):
        tree_hash({"opt": {"rng": jax.random.key(0)}})
    with pytest.raises(TypeError, match="'x' has dtype complex64"):
        tree_hash({"x": jnp.ones(2, jnp.complex64)})
    with pytest.raises(TypeError, match="'x' has dtype int4"):
        tree_hash({"x": jnp.ones(2, jnp.int4)})
    with pytest.raises(TypeError, match="'name'"):
        tree_hash({"name": "text"})
