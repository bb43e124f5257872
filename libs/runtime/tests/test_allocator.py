import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from setpoint_runtime import allocator

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def messages():
    kept = [b"x" * 1_000_000 for _ in range(8)]
    kept.clear()

held = allocator.keep_freed() if sys.argv[1] == "kept" else False
for _ in range(3):
    messages()
before = faults()
for _ in range(20):
    messages()
print(held, faults() - before)
"""


def measured(how: str) -> tuple[str, int]:
    """Returns whether memory is kept, and how many pages were fetched for messages after the first ones."""
    ended = subprocess.run(
        [sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True
    )
    held, faults = ended.stdout.split()
    return held, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
def test_memory_is_fetched_once() -> None:
    """Messages of a megabyte are made in the memory of those before, page by page the same."""
    held, faults = measured("kept")
    if held == "False":
        pytest.skip("not glibc")
    # Twenty rounds of eight megabytes would be some forty thousand pages.
    assert faults < 1_000
