import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_modules_of_others() -> Iterator[None]:
    """A test's made-up modules end with it; those of the next one may have the same names."""
    yield
    for name in [each for each in sys.modules if each.startswith("made_up_")]:
        del sys.modules[name]
