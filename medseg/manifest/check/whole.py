"""Is a file whole? What the decoders let pass: a PNG whose checksums are wrong or whose end is missing, a GIF without its end."""

from __future__ import annotations

import zlib
from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n"
GIF = (b"GIF87a", b"GIF89a")
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS")  # what decides on the pixels; a wrong checksum of a comment harms nobody


def damage_of(path: Path) -> str | None:
    """What is broken in a file that decodes all the same, in words; None where nothing is, or its format has no such checks."""
    with path.open("rb") as stream:
        head = stream.read(8)
        if head == PNG:
            return _damage_of_png(memoryview(head + stream.read()))
        if head[:6] in GIF:
            rest = stream.read()
            return None if b";" in rest[-64:] else "the end of the file is missing (truncated GIF)"
    return None


def _damage_of_png(content: memoryview) -> str | None:
    at = len(PNG)
    while at + 12 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), bytes(content[at + 4 : at + 8])
        end = at + 12 + length
        if end > len(content):
            break
        if kind in CRITICAL and zlib.crc32(content[at + 4 : end - 4]) != int.from_bytes(content[end - 4 : end], "big"):
            return f"the checksum of its {kind.decode()} block at byte {at:,} is wrong: the file was damaged, the pixels may be too"
        if kind == b"IEND":
            return None
        at = end
    return "the end of the file is missing (truncated PNG)"
