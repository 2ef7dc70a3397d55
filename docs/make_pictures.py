"""Make the pictures of README and docs: `python docs/make_pictures.py`, from the repository's root.

The overview is the one that inference with the committed weights writes for one generated scan.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
CASE = "phantom_060"


def main() -> None:
    """Run inference on one phantom scan and keep its overview."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        data, output = Path(temporary) / "data", Path(temporary) / "output"
        run("monai_pdddpm.data.phantom", str(data))
        config = ROOT / "bundles" / "phantom_segmentation" / "configs" / "inference.json"
        scan = data / "imagesTs" / f"{CASE}.nii.gz"
        options = ["--config_file", str(config), "--dataset_dir", str(scan), "--output_dir", str(output)]
        run("monai.bundle", "run", "inference", *options)
        shutil.copyfile(output / CASE / f"{CASE}_overview.png", PICTURES / "phantom_overview.png")


def run(module: str, *arguments: str) -> None:
    """Run a module with this Python."""
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
