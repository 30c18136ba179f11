"""How far apart two ways to compute the same may be, on any processor: from the dtype, not from what one machine gave.

The same computation repeated gives the same bits and needs none of this. docs/equal_bits.md lists which test is which.
"""

import math

import torch


def assert_close(found, expected, roundings, dtype=None, name=""):
    """Every number within sqrt(roundings) * eps of the largest expected one.

    Each rounding on the way to a number changes it by eps / 2 at most, where eps is the distance from 1 to the next
    number of the dtype. Errors go either way, so they add up as a random walk does: sqrt(roundings) * eps / 2 for each
    of the two ways. Relative to the largest, because a sum keeps the errors of large terms that cancel.

    Args:
        found, expected: tensors of one shape.
        roundings: layers that a number went through, times the terms of a sum where sums are kept in the dtype; where
            they are kept wider (products of 16-bit numbers) only their end is rounded.
        dtype: that numbers on the way are rounded to (autocast's); None: that of `found`.
    """
    assert found.shape == expected.shape
    allowed = math.sqrt(roundings) * torch.finfo(dtype or found.dtype).eps * float(expected.abs().max())
    apart = float((found.double() - expected.double()).abs().max())
    assert apart <= allowed, f"{name}: {apart:.3g} apart, of {allowed:.3g} allowed after {roundings} roundings"
