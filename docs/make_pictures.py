"""Make the pictures of README and docs: `python docs/make_pictures.py`, from the repository's root.

The overview is what inference with the committed weights leaves behind for one generated scan. The training curves
are drawn from the runs' TensorBoard files where there are any, since runs are not part of the repository.
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
    """Run inference on one phantom scan, keep its overview, and draw the curves of every bundle that has runs."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        data, output = Path(temporary) / "data", Path(temporary) / "output"
        run("monai_pdddpm.data.phantom", str(data))
        config = ROOT / "bundles" / "phantom_segmentation" / "configs" / "inference.json"
        scan = data / "imagesTs" / f"{CASE}.nii.gz"
        options = ["--config_file", str(config), "--dataset_dir", str(scan), "--output_dir", str(output)]
        run("monai.bundle", "run", "inference", *options)
        shutil.copyfile(output / CASE / f"{CASE}_overview.png", PICTURES / "phantom_overview.png")
    for bundle in sorted((ROOT / "bundles").iterdir()):
        runs = [bundle / "runs" / stage for stage in ("segmenter", "denoiser")]
        if all(folder.is_dir() for folder in runs):
            run("monai_pdddpm.visualize.curves", *map(str, runs), "-o", str(bundle / "docs" / "training_curves.png"))


def run(module: str, *arguments: str) -> None:
    """Run a module with this Python."""
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
