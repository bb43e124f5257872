"""Arrow bitmaps: one bit for each row, the least significant bit first."""

from typing import Final

import numpy as np
import numpy.typing as npt

# The wire form of up to eight flags and back, looked up: for the few rows of one request, numpy's
# packing costs several times as much as all the rest of a column.
_UNPACKED: Final = np.unpackbits(
    np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1, bitorder="little"
).view(np.bool_)
_UNPACKED.setflags(write=False)
_PACKED: Final = {
    _UNPACKED[byte, :rows].tobytes(): bytes([byte])
    for rows in range(1, 9)
    for byte in range(1 << rows)
}


def byte_length(rows: int) -> int:
    """Returns how many bytes hold one bit for each of `rows` rows."""
    return (rows + 7) >> 3


def pack(flags: npt.NDArray[np.bool_]) -> bytes:
    """Packs flags into a bitmap; bits past the last row are zero."""
    if 0 < len(flags) <= 8:
        return _PACKED[flags.tobytes()]
    return np.packbits(flags, bitorder="little").tobytes()


def unpack(bits: npt.NDArray[np.uint8] | bytes, rows: int, start: int = 0) -> npt.NDArray[np.bool_]:
    """Unpacks `rows` flags of a bitmap from bit `start` on; the result is read-only.

    Args:
        bits: The bitmap; it holds at least `start + rows` bits.
        rows: How many flags to read.
        start: First bit, which need not lie on a byte boundary.
    """
    skipped = start & 7
    if 0 < skipped + rows <= 8:
        return _UNPACKED[bits[start >> 3], skipped : skipped + rows]
    whole = np.frombuffer(bits, np.uint8)[start >> 3 :]
    flags = np.unpackbits(whole, count=rows + skipped, bitorder="little")[skipped:].view(np.bool_)
    flags.setflags(write=False)
    return flags
