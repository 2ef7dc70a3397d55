"""What setup.cfg cannot say: a wheel carries the templates of configs/, which a checkout has beside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithTemplates(build_py):
    """Copy the templates and the licence into the package that is built; an editable install finds them as they are."""

    def run(self) -> None:
        """Build."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "monai_pdddpm", "configs")
            target.mkdir(parents=True, exist_ok=True)
            for file in (*Path("configs").glob("*.*"), Path("LICENSE")):
                shutil.copy(file, target)


setup(cmdclass={"build_py": BuildWithTemplates})
