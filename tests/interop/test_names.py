"""Name maps: strict both ways, and exact inverses."""

import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.interop.blocks import blocks, linear, norm, patch_embed
from mae_jax.interop.names import (
    Constant,
    Rule,
    Unused,
    export_weights,
    import_weights,
    patch_kernel,
    reshape,
    stacked,
    their_names,
    transpose,
)

TABLE = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
RULES = [
    Constant("pos_embed", TABLE, "recomputed"),
    *patch_embed("patch_embed.proj", "encoder/patch_embed", 3, (2, 4)),
    *blocks("blocks", "encoder/blocks"),
    *norm("norm", "encoder/norm"),
    Unused("head.{rest:.*}", "a classifier's head"),
]


def tensors(depth=2, dim=4):
    rng = np.random.default_rng(0)
    shapes = {"patch_embed.proj.weight": (dim, 3, 2, 4), "patch_embed.proj.bias": (dim,)}
    for i in range(depth):
        for layer, shape in {
            "attn.qkv": (3 * dim, dim),
            "attn.proj": (dim, dim),
            "mlp.fc1": (8, dim),
            "mlp.fc2": (dim, 8),
        }.items():
            shapes |= {f"blocks.{i}.{layer}.weight": shape, f"blocks.{i}.{layer}.bias": shape[:1]}
        shapes |= {f"blocks.{i}.norm{k}.{part}": (dim,) for k in (1, 2) for part in ("weight", "bias")}
    shapes |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def theirs():
    return tensors() | {"pos_embed": TABLE, "head.weight": np.zeros((5, 4), np.float32)}


@pytest.fixture
def template():
    """Our shapes, from rules applied by hand."""
    block = {
        "attn": {"qkv": {"kernel": (4, 12), "bias": (12,)}, "proj": {"kernel": (4, 4), "bias": (4,)}},
        "mlp": {"fc1": {"kernel": (4, 8), "bias": (8,)}, "fc2": {"kernel": (8, 4), "bias": (4,)}},
        "norm1": {"scale": (4,), "bias": (4,)}, "norm2": {"scale": (4,), "bias": (4,)},
    }  # fmt: skip
    encoder = {
        "patch_embed": {"kernel": (24, 4), "bias": (4,)}, "blocks": {"0": block, "1": block},
        "norm": {"scale": (4,), "bias": (4,)},
    }  # fmt: skip
    zeros = {path: np.zeros(shape, np.float32) for path, shape in flat_shapes(encoder, "encoder")}
    return tree.unflatten(zeros)


def flat_shapes(node, path):
    """(path, shape) of every tuple in nested dicts."""
    if isinstance(node, tuple):
        return [(path, node)]
    return [pair for name, child in node.items() for pair in flat_shapes(child, f"{path}/{name}")]


def test_every_tensor_lands_where_it_belongs(theirs, template):
    ours, report = import_weights(RULES, theirs, template)
    np.testing.assert_array_equal(
        ours["encoder"]["blocks"]["1"]["attn"]["qkv"]["kernel"], theirs["blocks.1.attn.qkv.weight"].T
    )
    np.testing.assert_array_equal(ours["encoder"]["norm"]["scale"], theirs["norm.weight"])
    kernel, conv = ours["encoder"]["patch_embed"]["kernel"], theirs["patch_embed.proj.weight"]
    assert kernel[(1 * 4 + 2) * 3 + 1, 3] == conv[3, 1, 1, 2]  # row (row 1, column 2, channel 1), output 3
    assert report.used["blocks.0.norm2.bias"] == "encoder/blocks/0/norm2/bias"
    assert report.unused == {"pos_embed": "recomputed", "head.weight": "a classifier's head"}
    assert set(report.used) | set(report.unused) == set(theirs)
    assert their_names(RULES, "encoder/blocks/1/mlp/fc1/kernel") == ("blocks.1.mlp.fc1.weight",)


def test_export_is_the_exact_inverse(theirs, template):
    ours, report = import_weights(RULES, theirs, template)
    back = export_weights(RULES, ours)
    assert set(back) == set(report.used)
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, theirs[name])
        assert tensor.flags.c_contiguous and tensor.dtype == np.float32
    np.testing.assert_array_equal(export_weights(RULES, ours, constants=True)["pos_embed"], TABLE)


def test_a_convolution_equals_its_matrix():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    conv, image = rng.standard_normal((5, 3, 2, 4)), rng.standard_normal((1, 3, 2, 4))
    expected = torch.nn.functional.conv2d(torch.from_numpy(image), torch.from_numpy(conv)).numpy().ravel()
    patch = image[0].transpose(1, 2, 0).ravel()  # channel fastest
    np.testing.assert_allclose(patch @ patch_kernel(3, (2, 4)).to_ours(conv), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "transform,shapes",
    [
        (transpose, [(3, 5)]),
        (patch_kernel(2, (3, 5)), [(7, 2, 3, 5)]),
        (patch_kernel(2, (2, 3, 5)), [(7, 2, 2, 3, 5)]),
        (reshape((4, 6), (2, 12)), [(4, 6)]),
        (stacked(3, transpose), [(4, 6)] * 3),
        (stacked(2), [(4,)] * 2),
    ],
)
def test_transforms_are_inverses(transform, shapes):
    given = [np.random.default_rng(i).standard_normal(shape) for i, shape in enumerate(shapes)]
    back = transform.to_theirs(transform.to_ours(*given))
    for a, b in zip(given, back if isinstance(back, tuple) else (back,), strict=True):
        np.testing.assert_array_equal(a, b)


def test_several_of_theirs_fill_one_of_ours():
    rules = [
        Rule(tuple(f"layer.{{i}}.{p}.weight" for p in "qkv"), "blocks/{i}/qkv/kernel", stacked(3, transpose)),
        Rule(tuple(f"layer.{{i}}.{p}.bias" for p in "qkv"), "blocks/{i}/qkv/bias", stacked(3)),
    ]
    rng = np.random.default_rng(2)
    theirs = {f"layer.{i}.{p}.weight": rng.standard_normal((2, 4)) for i in range(2) for p in "vkq"}
    theirs |= {f"layer.{i}.{p}.bias": rng.standard_normal(2) for i in range(2) for p in "kvq"}
    template = {"blocks": {str(i): {"qkv": {"kernel": np.zeros((4, 6)), "bias": np.zeros(6)}} for i in range(2)}}
    ours, _ = import_weights(rules, theirs, template)
    np.testing.assert_array_equal(ours["blocks"]["1"]["qkv"]["kernel"][:, 2:4], theirs["layer.1.k.weight"].T)
    back = export_weights(rules, ours)
    assert set(back) == set(theirs)
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(back[name], tensor)
    del theirs["layer.1.k.bias"]
    with pytest.raises(UserError, match=r"blocks/1/qkv/bias has .* lacks layer\.\{i\}\.k\.bias"):
        import_weights(rules, theirs, template)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda t: t.pop("blocks.1.norm1.bias"), r"encoder/blocks/1/norm1/bias \(4\) is filled by no tensor"),
        (lambda t: t.update(ema=np.zeros(2)), r"ema \(2\) is known to no rule"),
        (
            lambda t: t.update({"norm.bias": np.zeros(3)}),
            r"norm\.bias \(3\) does not fit .*encoder/norm/bias of shape \(4,\)",
        ),
        (
            lambda t: t.update({"blocks.2.norm1.bias": np.zeros(4)}),
            "encoder/blocks/2/norm1/bias, which the network does not have",
        ),
        (
            lambda t: t.update({"blocks.0.attn.qkv.weight": np.zeros((4, 12))}),
            "does not fit parameter encoder/blocks/0/attn/qkv",
        ),
        (lambda t: t.update({"patch_embed.proj.weight": np.zeros((4, 3, 4, 4))}), "patch_embed.proj.weight"),
        (lambda t: t.update(pos_embed=TABLE + 1e-3), "pos_embed differs by up to 0.001"),
        (lambda t: t.update(pos_embed=TABLE * np.nan), "pos_embed differs"),
        (lambda t: t.update(pos_embed=TABLE[:, :2]), "should be the fixed table"),
    ],
)
def test_misfits_are_named(theirs, template, change, message):
    change(theirs)
    with pytest.raises(UserError, match=message):
        import_weights(RULES, theirs, template)


def test_all_misfits_are_told_at_once(theirs, template):
    theirs |= {"a": np.zeros(1), "b": np.zeros(1)}
    del theirs["norm.weight"]
    with pytest.raises(UserError, match=r"3 mismatches.*tensor a .*tensor b .*encoder/norm/scale"):
        import_weights(RULES, theirs, template)


@pytest.mark.parametrize("second", ["b", ("c", "b")])
def test_two_tensors_for_one_parameter(second):
    rules = [Rule("a", "x"), Rule(second, "x")]
    with pytest.raises(UserError, match="b and a both fill x"):
        import_weights(rules, {"a": np.zeros(1), "b": np.zeros(1)}, {"x": np.zeros(1)})


def test_export_names_the_unknown(template):
    template["decoder"] = {"mask_token": np.zeros((1, 1, 4))}
    with pytest.raises(UserError, match="decoder/mask_token"):
        export_weights(RULES, template)


def test_a_dot_is_a_dot():
    with pytest.raises(UserError, match="normXweight"):
        import_weights(linear("norm", "norm"), {"normXweight": np.zeros((1, 1))}, {})
    assert tree.flatten(import_weights([], {}, {})[0]) == {}
