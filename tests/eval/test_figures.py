"""eval/figures.py: panels in rows."""

import pytest

from mae_jax.eval.figures import panels


@pytest.mark.parametrize(("count", "size"), [(1, (6, 4)), (3, (18, 4)), (5, (18, 8)), (7, (18, 12))])
def test_panels_go_on_in_the_next_row(count, size):
    figure, axes = panels(count)
    assert tuple(figure.get_size_inches()) == size
    assert len(axes) == count and figure.axes == axes
