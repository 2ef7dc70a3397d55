"""Make the picture of the README: `python docs/figures/overview.py`.

It is the overview that inference with the shipped weights writes for one generated scan.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from monai_pdddpm.data import write_phantom

ROOT = Path(__file__).parents[2]
CASE = "phantom_060"


def main() -> None:
    """Run inference on one phantom scan and keep its overview."""
    with tempfile.TemporaryDirectory() as temporary:
        data, output = Path(temporary) / "data", Path(temporary) / "output"
        write_phantom(data)
        config = ROOT / "bundles" / "phantom_segmentation" / "configs" / "inference.json"
        scan = data / "imagesTs" / f"{CASE}.nii.gz"
        options = ["--config_file", str(config), "--dataset_dir", str(scan), "--output_dir", str(output)]
        run("monai.bundle", "run", "inference", *options)
        shutil.copyfile(output / CASE / f"{CASE}_overview.png", ROOT / "docs" / "pictures" / "phantom_overview.png")


def run(module: str, *arguments: str) -> None:
    """Run a module with this Python."""
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
