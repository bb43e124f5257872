"""Arrow bitmaps: one bit for each row, the least significant bit first."""

import numpy as np
import numpy.typing as npt


def byte_length(rows: int) -> int:
    """Returns how many bytes hold one bit for each of `rows` rows."""
    return (rows + 7) >> 3


def pack(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Packs flags into a bitmap; bits past the last row are zero."""
    return np.packbits(flags, bitorder="little")


def unpack(bits: npt.NDArray[np.uint8], rows: int, start: int = 0) -> npt.NDArray[np.bool_]:
    """Unpacks `rows` flags of a bitmap from bit `start` on.

    Args:
        bits: The bitmap; it holds at least `start + rows` bits.
        rows: How many flags to read.
        start: First bit, which need not lie on a byte boundary.
    """
    whole = bits[start >> 3 :]
    skipped = start & 7
    flags = np.unpackbits(whole, count=rows + skipped, bitorder="little")
    return flags[skipped:].view(np.bool_)
