"""A content hash per array that is the same under any sharding and sees a single flipped bit.

Each array is read as uint32 words (its bit pattern, narrower types widened, wider types split, least
significant word first). A word is mixed with its row-major position in the whole array by two different
bijections of 32 bits, and each stream is summed modulo 2^32. Addition commutes, so shards may be summed in
any order; the mixers are bijections, so any change confined to one word is always seen; the position makes
swapped elements count (missed with probability near 2^-64).

It guards against broken storage, not against an adversary. Shape and dtype are not part of the hash: record
them beside it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from numpy.typing import ArrayLike

from mae_jax.core.tree import flatten

_CHUNK = (
    1 << 14
)  # words that the numpy twin mixes at a time: its scratch then stays in the cache (5x faster than 1 << 20)


_NARROW = (
    "int1",
    "uint1",
    "int2",
    "uint2",
    "int4",
    "uint4",
    "float4_e2m1fn",
    "float6_e2m3fn",
    "float6_e3m2fn",
)


def tree_hash(tree: Any) -> dict[str, tuple[int, int]]:
    """{path: hash} of every array of a pytree. Blocks until the arrays are computed; only the sums leave the
    devices.

    One small program per distinct shape, dtype and sharding; all are dispatched before the first is read, but on a
    CPU. For the 864 arrays of a ViT-L with AdamW a single program for the tree took 35 s to compile on a CPU and
    was no faster to run.

    Args:
      tree: pytree of jax.Array (of any sharding, also over several processes) or of numpy arrays and scalars.
    Raises:
      TypeError: a leaf that has no bit pattern to hash, such as a typed PRNG key (store `jax.random.key_data`
        of it).
    """
    return _hashes(flatten(tree))()


def tree_hash_later(tree: Any) -> Callable[[], dict[str, tuple[int, int]]]:
    """`tree_hash` without the wait: what is returned gives the result when called, from any thread.

    The arrays may be donated meanwhile: an accelerator has the hashes in its queue before whatever overwrites them;
    a CPU, where the sums take as long as everything else, gets copies to sum (arrays over several CPU devices are
    summed at once: their collectives must not meet those of a train step).
    """
    flat = flatten(tree)
    several = any(isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1 for leaf in flat.values())
    if jax.default_backend() != "cpu":
        return _hashes(flat)
    if several:
        found = tree_hash(flat)
        return lambda: found
    for path, leaf in flat.items():
        check_hashable(path, leaf)
    copies = {path: (np.array(leaf), isinstance(leaf, jax.Array)) for path, leaf in flat.items()}
    return lambda: tree_hash({path: jax.device_put(x) if ours else x for path, (x, ours) in copies.items()})


def _hashes(flat: dict[str, Any]) -> Callable[[], dict[str, tuple[int, int]]]:
    for path, leaf in flat.items():
        check_hashable(path, leaf)
    # On a CPU, programs in flight together may enter their collectives in different orders on different devices, and
    # wait for each other for ever (seen on 8 virtual devices, and on 2 processes). Other chips keep an order.
    finish = jax.block_until_ready if jax.default_backend() == "cpu" else lambda pair: pair
    pairs = {
        path: finish(device_hash(leaf)) if isinstance(leaf, jax.Array) else array_hash(leaf)
        for path, leaf in flat.items()
    }
    return lambda: {path: (int(pair[0]), int(pair[1])) for path, pair in jax.device_get(pairs).items()}


def array_hash(x: ArrayLike) -> tuple[int, int]:
    """The same hash of one host array, in numpy."""
    x = np.asarray(x)
    check_hashable("array", x)
    flat = np.ascontiguousarray(x).reshape(-1)
    if x.dtype.itemsize < 4:
        words = flat.view(np.dtype(f"u{x.dtype.itemsize}"))
    else:
        words = flat.view(np.uint32)
    first = second = 0
    for start in range(0, words.size, _CHUNK):
        chunk = words[start : start + _CHUNK].astype(np.uint32)
        position = (np.arange(start, start + chunk.size, dtype=np.uint64) & 0xFFFFFFFF).astype(np.uint32)
        a, b = mixed(chunk, position)
        first += int(a.sum(dtype=np.uint64))
        second += int(b.sum(dtype=np.uint64))
    return first & 0xFFFFFFFF, second & 0xFFFFFFFF


@jax.jit
def device_hash(x: Array) -> Array:
    """[2] uint32: the hash of one array, where it lies. Elementwise and a sum: sharded, it needs one
    all-reduce and no more.
    """
    if x.size == 0:
        return jnp.zeros(2, jnp.uint32)
    words = as_words(x)
    a, b = mixed(words, row_major_position(words.shape))
    return jnp.stack([jnp.sum(a, dtype=jnp.uint32), jnp.sum(b, dtype=jnp.uint32)])


def as_words(x: Array) -> Array:
    """The bit pattern as uint32: [...] for types up to 32 bits, [..., words] for wider ones."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    if x.dtype.itemsize >= 4:
        return lax.bitcast_convert_type(x, jnp.uint32)
    return lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)


def row_major_position(shape: Sequence[int]) -> Array:
    """uint32 index of each element in row-major order, modulo 2^32. Built from one iota per axis, so that
    every shard makes its own.
    """
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    terms = [
        lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride & 0xFFFFFFFF)
        for axis, stride in enumerate(strides)
    ]
    return functools.reduce(lax.add, terms) if terms else jnp.zeros(shape, jnp.uint32)


def mixed(words: Any, position: Any) -> tuple[Any, Any]:
    """Two bijective mixes of each uint32 word, each with its own use of the position (numpy and jax alike).

    The finalizers are those of MurmurHash3 (Appleby) and lowbias32 (Wellons, "Prospecting for hash
    functions"); the position's factors are 2^32 over the golden ratio and lowbias32's first, both odd.
    """
    key = _lowbias32(
        position * np.uint32(0x9E3779B1) + np.uint32(0x85EBCA77)
    )  # scrambled: adjacent positions share no structure
    a = _murmur3(words ^ key)
    b = _lowbias32(words + position * np.uint32(0x7FEB352D) + np.uint32(0xC2B2AE3D))
    return a, b


def _murmur3(x: Any) -> Any:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _lowbias32(x: Any) -> Any:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def check_hashable(path: str, leaf: Any) -> None:
    """Refuse what has no bit pattern of whole bytes."""
    dtype = leaf.dtype if isinstance(leaf, jax.Array) else np.asarray(leaf).dtype
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"'{path}' is a typed PRNG key; hash and save its jax.random.key_data, and wrap that on loading."
        )
    name = np.dtype(dtype).name
    if np.dtype(dtype).kind in "OSUMmc" or name in _NARROW:
        raise TypeError(
            f"'{path}' has dtype {name}, which has no hash: use booleans, integers or reals of 8 to 64 bits."
        )
