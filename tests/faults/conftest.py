import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # kinds, make_corpus and spoil are modules, and no package
