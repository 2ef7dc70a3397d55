"""What setup.cfg cannot say: a wheel carries templates and a bundle, which a checkout has beside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# the phantom's bundle with its weights; of the others, which are archives of a release, what names them
SHIPPED = (
    "configs/*.*",
    *(f"bundles/phantom_segmentation/{part}" for part in ("LICENSE", "configs/*", "docs/*", "models/*")),
    "bundles/*/configs/metadata.json",
)


class BuildWithShippedFiles(build_py):
    """Copy the shipped files into the package that is built; an editable install finds them as they are."""

    def run(self) -> None:
        """Build."""
        super().run()
        for file in (file for pattern in SHIPPED for file in Path().glob(pattern) if not self.editable_mode):
            target = Path(self.build_lib, "monai_pdddpm", file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


setup(cmdclass={"build_py": BuildWithShippedFiles})
