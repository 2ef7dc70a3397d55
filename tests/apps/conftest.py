import sys
from pathlib import Path

# label_server, and what tests/faults asks a server, are modules, and no packages
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "faults")]
