"""Bytes made smaller for the way to a device, and bytes from anywhere made whole again without trust in them.

The format is one stream of `.xz`, which `xz -d` reads, too. LZMA is told nothing of what it packs but how it lies: of
float32 each fourth byte is of a kind, of int8 each byte, and the smaller of both tries is kept. The same content gives
the same bytes with the same liblzma. Reading takes memory of a fixed size whatever a stream asks for, and gives no
more than is asked of it: whoever reads says when it is enough.

The format is https://tukaani.org/xz/xz-file-format.txt, version 1.2.1.
"""

from __future__ import annotations

import lzma
from typing import BinaryIO

#: what files of this kind are called
SUFFIX = ".xz"

#: the window that is looked back through, which is what reading needs in memory
WINDOW_BYTES = 8 << 20
#: of a reader, with what liblzma needs beside the window
MEMORY_BYTES = 16 << 20

#: literals are foretold from the byte before (`lc` bits of it) and from where they stand in four bytes (`lp` bits)
BYTES, WORDS = {"lc": 3, "lp": 0, "pb": 0}, {"lc": 2, "lp": 2, "pb": 2}

READ_BYTES = 1 << 16


def compress(content: bytes) -> bytes:
    """The content as one `.xz` stream, with a checksum of its own."""
    return min((_compress(content, kind) for kind in (BYTES, WORDS)), key=len)


def _compress(content: bytes, kind: dict[str, int]) -> bytes:
    chosen = {"id": lzma.FILTER_LZMA2, "preset": 6 | lzma.PRESET_EXTREME, "dict_size": WINDOW_BYTES, **kind}
    return lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC64, filters=[chosen])


class Decompressed:
    """What a stream of `.xz` holds, read forward in pieces; one that goes wrong raises `lzma.LZMAError`, and no other.

    One stream is read and nothing behind it: not a second one, and no padding.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, MEMORY_BYTES)

    def read(self, count: int) -> bytes:
        """So many bytes, fewer only at the end of the stream, where its checksum has held.

        Raises:
            lzma.LZMAError: it is cut short, goes on after its end, is damaged, or needs more memory than is given.
        """
        parts = []
        while count and not self._decompressor.eof:
            parts.append(self._next(count))
            count -= len(parts[-1])
        if count and (self._decompressor.unused_data or self._stream.read(1)):
            raise lzma.LZMAError("it goes on after its end")
        return b"".join(parts)

    def _next(self, most: int) -> bytes:
        """Some bytes, none where those that were read give none yet."""
        given = self._stream.read(READ_BYTES) if self._decompressor.needs_input else b""
        if not given and self._decompressor.needs_input:
            raise lzma.LZMAError("it is cut short")
        return self._decompressor.decompress(given, most)
