import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# label_server is a module beside the tests; the app's folder contains pdddpm_label and put_bundle
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "apps" / "monailabel"), str(ROOT / "tools" / "reliability")]
