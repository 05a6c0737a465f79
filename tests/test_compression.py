"""Streams of `.xz`: whole again to the byte, the same each time, and nothing that a stream asks for is just given."""

from __future__ import annotations

import io
import lzma
import tracemalloc

import numpy as np
import pytest

from benchmarks.hostile_bundles import with_window
from edgeopt.compression import MEMORY_BYTES, Decompressed, compress


def read_all(data: bytes, step: int = 1 << 20) -> bytes:
    reader, parts = Decompressed(io.BytesIO(data)), []
    while part := reader.read(step):
        parts.append(part)
    return b"".join(parts)


CONTENTS = {
    "nothing": b"",
    "a byte": b"x",
    "noise": np.random.default_rng(0).bytes(100_000),
    "weights": np.random.default_rng(0).normal(0, 0.1, 50_000).astype(np.float32).tobytes(),
    "zeros": bytes(3_000_000),
}


@pytest.mark.parametrize("step", [1, 4096, 1 << 20])
@pytest.mark.parametrize("name", CONTENTS)
def test_what_was_compressed_comes_out_in_pieces_of_any_size(name: str, step: int) -> None:
    content = CONTENTS[name][: 5000 * step]
    assert read_all(compress(content), step) == content
    assert lzma.decompress(compress(content)) == content  # any other tool reads it, too


def test_a_read_gives_just_what_was_asked_for() -> None:
    reader = Decompressed(io.BytesIO(compress(CONTENTS["noise"])))
    assert [len(reader.read(count)) for count in (0, 1, 70_000, 50_000, 5)] == [0, 1, 70_000, 29_999, 0]


def test_the_same_content_gives_the_same_bytes() -> None:
    assert compress(CONTENTS["weights"]) == compress(CONTENTS["weights"])


def test_floats_and_integers_both_become_smaller_than_by_the_usual_settings() -> None:
    integers = np.random.default_rng(0).normal(0, 20, 200_000).astype(np.int8).tobytes()
    assert len(compress(CONTENTS["weights"])) < 0.95 * len(lzma.compress(CONTENTS["weights"]))
    assert len(compress(integers)) < 1.005 * len(lzma.compress(integers))


PACKED = compress(CONTENTS["noise"])


@pytest.mark.parametrize(
    ("hostile", "told"),
    [
        (PACKED[:-1], "cut short"),
        (PACKED[:5], "cut short"),
        (b"", "cut short"),
        (PACKED + b"x", "goes on after its end"),
        (PACKED + bytes(4), "goes on after its end"),
        (PACKED * 2, "goes on after its end"),
        (PACKED[:5000] + bytes([PACKED[5000] ^ 1]) + PACKED[5001:], "[Cc]orrupt"),
        (with_window(b"x" * 1000, 1 << 30), "[Mm]emory"),
        (lzma.compress(b"x", lzma.FORMAT_ALONE), "format"),
    ],
)
def test_a_stream_that_is_not_one_sound_stream_is_refused(hostile: bytes, told: str) -> None:
    with pytest.raises(lzma.LZMAError, match=told):
        read_all(hostile)


def test_a_bomb_costs_no_more_memory_than_is_read_of_it() -> None:
    bomb = compress(bytes(200_000_000))
    assert len(bomb) < 100_000
    tracemalloc.start()
    reader = Decompressed(io.BytesIO(bomb))
    for _ in range(50):
        assert len(reader.read(1 << 16)) == 1 << 16
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY_BYTES
