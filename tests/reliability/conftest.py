import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tools" / "reliability"), str(ROOT / "apps" / "monailabel")]
