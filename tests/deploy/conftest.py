import sys
from pathlib import Path

# Helper modules of these tests, and the scripts below deploy/, are imported by their place in the
# repository, also when pytest is not started as `python -m pytest` from the root.
ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
