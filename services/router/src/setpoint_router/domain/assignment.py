"""Which version a key gets: slots of a hash, and tables of slots that move as little as possible.

The rule is a contract between languages: slot = xxh3_64(utf8(salt) + 0x00 + utf8(key)) mod 10000,
unseeded, unsigned. `proto/vectors/` describes it with the way tables change, and holds vectors to
check other implementations by.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from setpoint_router.domain import xxh3 as xxh3_of_many
from setpoint_runtime import errors

SLOTS = 10_000
"""Slots of a table, which makes one slot one basis point."""

MAX_VERSION = 2**31 - 1
"""Slot tables hold versions in 32 bits."""

UNASSIGNED = 0
"""Stands in a table for no version; versions count from 1."""

SlotTable = npt.NDArray[np.int32]

xxh3 = xxhash.xxh3_64_intdigest


def slot_of(salt: str, key: str) -> int:
    """Returns the slot of a key."""
    return xxh3(f"{salt}\0{key}".encode()) % SLOTS


def slots_of(salt: str, keys: Sequence[str]) -> npt.NDArray[np.int32]:
    """Returns the slots of many keys."""
    prefix = f"{salt}\0"
    hashes = [xxh3((prefix + key).encode()) for key in keys]
    return (np.array(hashes, np.uint64) % np.uint64(SLOTS)).astype(np.int32)


def slots_of_texts(
    salt: str, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Returns the slots of keys that lie in a buffer, as the text of a column does.

    Args:
        salt: The salt.
        data: The keys' UTF-8 bytes, one after the other.
        offsets: Where each of them begins, and where the last one ends.
    """
    found = xxh3_of_many.hashes(f"{salt}\0".encode(), data, offsets)
    return (found % np.uint64(SLOTS)).astype(np.int32)


def empty_table() -> SlotTable:
    """Returns a table in which no slot has a version yet."""
    return np.full(SLOTS, UNASSIGNED, np.int32)


def check_weights(weights: Mapping[int, int]) -> None:
    """Refuses weights that do not divide all slots among versions.

    Raises:
        InvalidArgumentError: Names the weight and the rule.
    """
    for version, share in weights.items():
        if not 1 <= version <= MAX_VERSION:
            raise _invalid("route.weights", version, f"must be a version from 1 to {MAX_VERSION}")
        if not 0 <= share <= SLOTS:
            rule = f"must be a share from 0 to {SLOTS} basis points"
            raise _invalid(f"route.weights[version {version}]", share, rule)
    total = sum(weights.values())
    if total != SLOTS:
        raise _invalid("route.weights", total, f"must add up to {SLOTS} basis points")


def rebalance(table: SlotTable, weights: Mapping[int, int], seed: str) -> tuple[SlotTable, int]:
    """Returns a table with exactly the asked shares, and how many slots got another version.

    Only slots of versions above their share move, and only to versions below theirs, so the number
    of keys that change their version is the least possible. Which of a version's slots move is drawn
    by `seed`: the same in every process, but not the same keys for every experiment.

    Args:
        table: The table in force.
        weights: Share of each version in basis points; a version that is absent gets nothing.
        seed: Names the change, such as salt and revision.

    Raises:
        InvalidArgumentError: The weights do not add up.
    """
    check_weights(weights)
    moved = table.copy()
    freed = _surplus(table, weights, _draw(seed))
    moved[freed] = _deficits(table, weights)
    return moved, len(freed)


def _draw(seed: str) -> npt.NDArray[np.intp]:
    """Returns all slots in an order that depends on the seed alone."""
    return np.argsort(slot_ranks(seed), kind="stable")


def slot_ranks(seed: str) -> npt.NDArray[np.uint64]:
    """Returns a pseudo-random number for each slot, equal in every process and language."""
    return xxh3_of_many.hashes(f"{seed}\0".encode(), *_SLOT_NUMBERS)


def _slot_numbers() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Returns the decimal numbers of all slots, joined, and where each begins."""
    texts = [str(slot) for slot in range(SLOTS)]
    offsets = np.zeros(SLOTS + 1, np.int32)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return np.frombuffer("".join(texts).encode(), np.uint8), offsets


_SLOT_NUMBERS = _slot_numbers()


def _surplus(
    table: SlotTable, weights: Mapping[int, int], order: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Returns the slots that leave their versions, in drawn order."""
    leaving = [
        order[table[order] == version][weights.get(version, 0) :]
        for version in np.unique(table).tolist()
    ]
    ranks = np.empty(SLOTS, np.intp)
    ranks[order] = np.arange(SLOTS)
    slots = np.concatenate(leaving)
    return slots[np.argsort(ranks[slots])]


def _deficits(table: SlotTable, weights: Mapping[int, int]) -> SlotTable:
    """Returns each version as often as it lacks slots, in order of versions."""
    held = dict(zip(*(each.tolist() for each in np.unique(table, return_counts=True)), strict=True))
    versions = sorted(weights)
    lacking = [max(0, weights[version] - held.get(version, 0)) for version in versions]
    return np.repeat(np.array(versions, np.int32), lacking)


def _invalid(field: str, value: object, rule: str) -> errors.InvalidArgumentError:
    return errors.invalid(field, value, rule, errors.Reason.INVALID_WEIGHTS)
