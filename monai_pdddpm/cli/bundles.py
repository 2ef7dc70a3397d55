"""``bundles``: list the bundles of this release."""

from __future__ import annotations

import argparse
import json

from monai_pdddpm.cli import Result
from monai_pdddpm.cli.shipped import bundles


def run(options: argparse.Namespace) -> Result:
    """Run ``bundles``."""
    content = {}
    lines = []
    for file in sorted(bundles().glob("*/configs/metadata.json")):
        folder, metadata = file.parents[1], json.loads(file.read_text(encoding="utf-8"))
        name = f"{metadata['name']} {metadata['version']}"
        weights = folder / "models" / "model.pt"
        if weights.is_file():
            size = weights.stat().st_size
            content[metadata["name"]] = metadata | {"folder": str(folder), "bytes": size}
            lines.append(f"{name}, weights {size / 1e6:.1f} MB: {folder}")
        else:
            archive = f"{metadata['name']}_v{metadata['version']}.zip"
            content[metadata["name"]] = metadata | {"archive": archive}
            lines.append(f"{name}: not in this package; unpack {archive} of the release")
        lines.append(f"    {metadata['task']}")
    return Result({"bundles": content}, lines)
