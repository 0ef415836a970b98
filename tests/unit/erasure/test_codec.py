"""Codec: shapes, kernels, fallback, threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hcefs.erasure import codec as codec_module
from hcefs.erasure import isal
from hcefs.erasure.codec import Codec, codec_for, zfec_matrix
from hcefs.erasure.isal import Buffer, WritableBuffer
from hcefs.erasure.scheme import PROFILES
from hcefs.errors import Internal, Invalid, Unavailable

KERNELS = ["isal", "zfec"]


def pieces_of(k: int, length: int) -> list[bytes]:
    return [bytes((5 * i + 17 * j + i * i) & 0xFF for i in range(length)) for j in range(k)]


@pytest.fixture
def cold_kernels() -> Iterator[None]:
    """Forget loaded kernels before and after, so that a test may replace libisal."""
    caches = (
        codec_module._isal_kernel,
        codec_module._warn_of_fallback,
        codec_module._codec,
        isal.load_library,
    )
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 63, 64, 65, 4096])
def test_encode_and_rebuild(kernel: str, length: int) -> None:
    codec = Codec(4, 2, kernel)
    assert codec.kernel == kernel
    data = pieces_of(4, length)
    stripe = dict(enumerate([*data, *codec.encode(data)]))
    survivors = {i: stripe[i] for i in (1, 2, 4, 5)}
    assert codec.rebuild(survivors, (0, 3)) == {0: stripe[0], 3: stripe[3]}


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kind_of_buffer(kernel: str) -> None:
    codec = Codec(4, 2, kernel)
    data = pieces_of(4, 100)
    expected = codec.encode(data)
    pool = bytearray(b"".join(data)) + bytearray(200)
    view = memoryview(pool)
    mixed: list[Buffer] = [
        data[0],
        view[100:200],
        bytearray(data[2]),
        memoryview(b"".join(data)).toreadonly()[300:],
    ]
    out: list[WritableBuffer] = [view[400:500], bytearray(100)]
    codec.encode_into(mixed, out)
    assert [bytes(piece) for piece in out] == expected
    assert pool[500:] == bytes(100), "the kernel wrote past the output"
    assert codec.encode(mixed) == expected


@pytest.mark.parametrize("kernel", KERNELS)
def test_buffers_are_released_after_a_call(kernel: str) -> None:
    codec = Codec(4, 2, kernel)
    data = [bytearray(piece) for piece in pieces_of(4, 64)]
    parity = [bytearray(64), bytearray(64)]
    codec.encode_into(data, parity)
    for buffer in (*data, *parity):
        buffer.extend(b"x")  # BufferError if an export were left


@pytest.mark.parametrize("kernel", KERNELS)
def test_available_pieces_are_returned_as_they_are(kernel: str) -> None:
    codec = Codec(4, 2, kernel)
    data = pieces_of(4, 64)
    parity = codec.encode(data)
    assert codec.rebuild({5: memoryview(parity[1])}, [5, 5]) == {5: parity[1]}
    assert codec.rebuild(dict(enumerate(data)), [0, 4, 4]) == {0: data[0], 4: parity[0]}
    assert codec.rebuild({}, []) == {}


@pytest.mark.parametrize("kernel", KERNELS)
def test_too_few_pieces(kernel: str) -> None:
    codec = Codec(4, 2, kernel)
    with pytest.raises(Unavailable) as caught:
        codec.rebuild({0: b"a", 1: b"b", 5: b"c"}, (2,))
    assert caught.value.reason == "too-few-pieces"


@pytest.mark.parametrize("kernel", [*KERNELS, "copy"])
def test_wrong_shapes_are_refused(kernel: str) -> None:
    codec = Codec(1, 2) if kernel == "copy" else Codec(4, 2, kernel)
    data = pieces_of(codec.k, 64)
    uneven = [*data[:-1], bytes(63)] if codec.k > 1 else [*data, *data]
    strided = [memoryview(bytes(128))[::2]] * codec.k
    cases: dict[str, list[Callable[[], object]]] = {
        "bad-pieces": [
            lambda: codec.encode([*data, data[0]]),
            lambda: codec.encode(uneven),
            lambda: codec.encode_into(data, [bytearray(64)]),
            lambda: codec.encode_into(data, [bytearray(64), bytearray(65)]),
            lambda: codec.rebuild({codec.n: b""}, (0,)),
            lambda: codec.rebuild({0: b""}, (-1,)),
        ],
        "bad-buffer": [
            lambda: codec.encode(strided),
            lambda: codec.encode_into(data, [bytearray(64), memoryview(bytes(64))]),
        ],
    }
    for reason, calls in cases.items():
        for call in calls:
            with pytest.raises(Invalid) as caught:
                call()
            assert caught.value.reason == reason


@pytest.mark.parametrize(("k", "m"), [(0, 2), (4, 0), (-1, 3), (255, 2)])
def test_impossible_codes_are_refused(k: int, m: int) -> None:
    with pytest.raises(Invalid) as caught:
        Codec(k, m)
    assert caught.value.reason == "bad-profile"


def test_unknown_kernel_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        Codec(4, 2, "gpu")
    assert caught.value.reason == "unknown-kernel"


def test_one_data_piece_means_copies_and_so_does_zfec() -> None:
    codec = codec_for(PROFILES["copy-3"])
    piece = pieces_of(1, 100)[0]
    assert codec.kernel == "copy"
    assert codec.encode([piece]) == [piece, piece]
    out = [bytearray(100), bytearray(100)]
    codec.encode_into([piece], out)
    assert out == [piece, piece]
    assert codec.rebuild({2: piece}, (0, 1)) == {0: piece, 1: piece}
    assert zfec_matrix(1, 2) == (b"\x01", b"\x01")


def test_codecs_are_shared() -> None:
    assert codec_for(PROFILES["ec-4-2"]) is codec_for(PROFILES["ec-4-2"])
    assert codec_for(PROFILES["ec-4-2"]).kernel == "isal"


def test_threads_share_one_codec() -> None:
    codec = codec_for(PROFILES["ec-8-3"])
    data = pieces_of(8, 40_000)
    expected = codec.encode(data)
    stripe = dict(enumerate([*data, *expected]))

    def work(turn: int) -> bool:
        lost = {turn % 11, (turn * 3 + 1) % 11, (turn * 7 + 5) % 11}
        left = {i: piece for i, piece in stripe.items() if i not in lost}
        return codec.encode(data) == expected and all(
            piece == stripe[i] for i, piece in codec.rebuild(left, sorted(lost)).items()
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))


@pytest.mark.usefixtures("cold_kernels")
def test_without_libisal_auto_falls_back_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(isal, "_candidates", lambda: iter(["/nonexistent/libisal.so.2"]))
    with caplog.at_level(logging.WARNING):
        assert [Codec(4, 2).kernel, Codec(8, 3).kernel] == ["zfec", "zfec"]
    assert len(caplog.records) == 1
    assert "falls back to zfec" in caplog.text
    with pytest.raises(Unavailable) as caught:
        Codec(4, 2, "isal")
    assert caught.value.reason == "no-kernel"


@pytest.mark.usefixtures("cold_kernels")
def test_a_libisal_that_computes_other_bytes_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = isal.IsalKernel.encode

    def flipped(self: isal.IsalKernel, data: list[bytes], length: int) -> list[bytes]:
        parity = honest(self, data, length)
        return [*parity[:-1], bytes(length)]

    monkeypatch.setattr(isal.IsalKernel, "encode", flipped)
    with caplog.at_level(logging.WARNING):
        assert Codec(4, 2).kernel == "zfec"
    with pytest.raises(Internal) as caught:
        Codec(4, 2, "isal")
    assert caught.value.reason == "kernel-mismatch"


def test_a_library_that_is_not_isal_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    real = list(isal._candidates())
    isal.load_library.cache_clear()
    monkeypatch.setattr(isal, "_candidates", lambda: iter(["libc.so.6", *real]))
    assert hasattr(isal.load_library(), "ec_encode_data")


def test_decode_tables_are_bounded() -> None:
    kernel = isal.IsalKernel(4, zfec_matrix(4, 2))
    assert kernel._decode_tables.cache_info().maxsize == isal.DECODE_TABLES_MAX
    piece = bytes(64)
    for _ in range(3):
        kernel.rebuild((2, 3, 4, 5), [piece] * 4, (0, 1), 64)
    assert kernel._decode_tables.cache_info().currsize == 1
