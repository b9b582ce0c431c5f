"""Closed formulas for the cost of a network. A multiply-add counts 2; norms, softmax and activations are left out.

Compilers' own counts are not used: XLA's counts the body of a scan once.
"""


def block(n: int, d: int, mlp_ratio: float = 4.0) -> float:
    """One Transformer block on n tokens of width d: 24 n d^2 + 4 n^2 d for mlp_ratio 4."""
    return (8 + 4 * mlp_ratio) * n * d * d + 4 * n * n * d


def cross_attention(n: int, m: int, d: int) -> float:
    """Attention of n tokens of width d to m others of the same width."""
    return 4.0 * n * d * d + 4.0 * m * d * d + 4.0 * n * m * d


def dense(n: int, d_in: int, d_out: int) -> float:
    """A linear layer on n tokens."""
    return 2.0 * n * d_in * d_out


def conv(n: int, kernel: int, d_in: int, d_out: int, groups: int = 1) -> float:
    """A convolution with a square kernel that makes n positions (a transposed one: that reads n)."""
    return 2.0 * n * kernel * kernel * d_in * d_out / groups
