"""Make the pictures of the page on viewing results: `python docs/figures/viewer.py`.

They are screenshots, taken with Chromium, of the pages that inference writes for generated scans. It needs the extra
`viewer`.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from monai_pdddpm.data import write_phantom

ROOT = Path(__file__).parents[2]
CASES = ("phantom_060", "phantom_061", "phantom_062", "phantom_063")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# the page after a click on "Next": the first member
STEP = "<script>addEventListener('load', () => setTimeout(() => element('next').click(), 4000));</script></body>"


def main() -> None:
    """Run inference on a few phantom scans, and take pictures of a case and of all cases."""
    with tempfile.TemporaryDirectory() as temporary:
        data, scans, output = (Path(temporary) / name for name in ("data", "scans", "output"))
        write_phantom(data)
        scans.mkdir()
        for case in CASES:
            shutil.copy(data / "imagesTs" / f"{case}.nii.gz", scans)
        (scans / "phantom_064.nii.gz").write_bytes(b"cut short")
        config = ROOT / "bundles" / "phantom_segmentation" / "configs" / "inference.json"
        options = ["--config_file", str(config), "--dataset_dir", str(scans), "--output_dir", str(output)]
        subprocess.run([sys.executable, "-m", "monai.bundle", "run", "inference", *options], cwd=ROOT, check=False)
        page = output / CASES[0] / f"{CASES[0]}_viewer.html"
        page.write_text(page.read_text(encoding="utf-8").replace("</body>", STEP), encoding="utf-8")
        take(page, ROOT / "docs" / "pictures" / "viewer.png", "1400,860", temporary)
        take(output / "index.html", ROOT / "docs" / "pictures" / "all_cases.png", "1400,900", temporary)


def take(page: Path, picture: Path, size: str, temporary: str) -> None:
    """Take a picture of a page."""
    program = next(filter(None, map(shutil.which, BROWSERS)))
    quiet = ["--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    what = [f"--window-size={size}", "--hide-scrollbars", "--virtual-time-budget=20000", f"--screenshot={picture}"]
    profile = f"--user-data-dir={temporary}/profile"
    subprocess.run([program, *quiet, *what, profile, page.as_uri()], check=True, capture_output=True)
    Image.open(picture).convert("RGB").save(picture, optimize=True)


if __name__ == "__main__":
    main()
