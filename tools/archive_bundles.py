"""Write the bundles as archives of a release, and the checksums of all its files.

    python tools/archive_bundles.py dist

Each bundle becomes ``<name>_v<version>.zip`` with the bundle's folder in it, as ``monai.bundle.download`` expects. The
same files give the same archive. ``SHA256SUMS`` covers every file in the folder; ``sha256sum -c SHA256SUMS`` checks
them.
"""

import argparse
import hashlib
import json
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("LICENSE", "configs/*", "docs/*", "models/model.pt", "models/calibration.json")


def archive_bundle(bundle: Path, folder: Path) -> Path:
    """Write the archive of a bundle; return its path."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    target = folder / f"{bundle.name}_v{metadata['version']}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for part in PARTS for file in bundle.glob(part)):
            entry = zipfile.ZipInfo(file.relative_to(bundle.parent).as_posix())  # its date is 1980
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, file.read_bytes())
    return target


def write_checksums(folder: Path) -> Path:
    """Write the SHA-256 of each file of a folder into ``SHA256SUMS``; return its path."""
    target = folder / "SHA256SUMS"
    files = sorted(file for file in folder.iterdir() if file.is_file() and file != target)
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    target.write_text("".join(lines), encoding="utf-8")
    return target


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write the bundles as archives of a release, and checksums.")
    parser.add_argument("folder", type=Path, help="folder of the release's files, such as dist")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(ROOT.glob("bundles/*/models/model.pt")):
        print(archive_bundle(file.parents[1], folder))
    print(write_checksums(folder))


if __name__ == "__main__":
    main()
