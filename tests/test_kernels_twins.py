import inspect

import pytest

from minicnn import kernels
from minicnn.kernels import reference


@pytest.mark.parametrize("name", [name for name in kernels.__all__ if name not in ("dropout_mask", "mask_for")])
def test_every_kernel_has_a_naive_twin_with_the_same_arguments(name):
    """All but the masks of dropout: chance has no twin. Twins have no choice of algorithm or memory."""

    def arguments(function):
        return [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()
                if p.name not in ("algorithm", "out")]  # fmt: skip

    fast, naive = getattr(kernels, name), getattr(reference, name)
    assert arguments(fast) == arguments(naive)
    assert inspect.getdoc(fast)
    assert inspect.getdoc(naive)
