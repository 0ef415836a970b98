"""Arithmetic over GF(2^8) and matrices."""

from __future__ import annotations

import pytest

from hcefs.erasure.codec import zfec_matrix
from hcefs.erasure.isal import IsalKernel, invert, multiply, rebuild_matrix
from hcefs.errors import Invalid


def schoolbook(a: int, b: int) -> int:
    """Carry-less product, reduced by x^8 + x^4 + x^3 + x^2 + 1."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a, b = a << 1, b >> 1
        if a & 0x100:
            a ^= 0x11D
    return product


def test_multiplication_is_that_of_the_field() -> None:
    assert all(multiply(a, b) == schoolbook(a, b) for a in range(256) for b in range(0, 256, 7))


@pytest.mark.parametrize(("k", "m"), [(4, 2), (8, 3), (10, 4)])
def test_inverse_times_matrix_is_the_identity(k: int, m: int) -> None:
    identity = tuple(bytes(j == i for j in range(k)) for i in range(k))
    survivors = (identity + zfec_matrix(k, m))[m:]
    inverse = invert(survivors)
    for i, row in enumerate(inverse):
        product = bytearray(k)
        for factor, source in zip(row, survivors, strict=True):
            for j in range(k):
                product[j] ^= multiply(factor, source[j])
        assert bytes(product) == identity[i]


def test_a_singular_matrix_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        invert((b"\x01\x02", b"\x01\x02"))
    assert caught.value.reason == "bad-profile"


def test_the_matrix_of_surviving_data_is_the_parity_matrix() -> None:
    parity = zfec_matrix(4, 2)
    assert rebuild_matrix(4, parity, range(4), (4, 5)) == parity


def test_a_piece_too_long_for_the_library_is_refused() -> None:
    kernel = IsalKernel(4, zfec_matrix(4, 2))
    with pytest.raises(Invalid) as caught:
        kernel.encode_into([b""] * 4, [bytearray()] * 2, 1 << 31)
    assert caught.value.reason == "bad-pieces"


def test_the_kernel_refuses_read_only_outputs_itself() -> None:
    kernel = IsalKernel(4, zfec_matrix(4, 2))
    first = bytearray(8)
    with pytest.raises(Invalid) as caught:
        kernel.encode_into([bytes(8)] * 4, [first, memoryview(bytes(8))], 8)
    assert caught.value.reason == "bad-buffer"
    first.extend(b"x")  # what was exported before the failure is released
