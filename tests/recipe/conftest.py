"""The choice of the recipe is no part of the installed module: its files are imported from where they lie."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "recipe"))
