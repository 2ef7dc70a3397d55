"""Copy a bundle into MONAI Label's own ``monaibundle`` app, for inference.

    python apps/monailabel/put_bundle.py --app apps/monaibundle --bundle bundles/<name>

The copy in ``<app>/model/<name>`` has the files that inference needs; the viewer shows members and steps as options.
Training configurations are not copied: that app starts the denoiser's moving average at random weights, does not train
a second time, and keeps a worse model. Use the app in ``apps/monailabel`` for training.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pdddpm_label.bundles import find_bundles

from monai_pdddpm.utils.errors import UserError

_OPTIONS = ("members", "num_steps")
_PARTS = ("LICENSE", "docs/*", "configs/metadata.json", "configs/logging.conf", "models/model.pt", "models/cal*.json")


def put_bundle(app: Path, bundle: Path, overwrite: bool = False) -> Path:
    """Copy a bundle into the ``model`` folder of an app.

    Args:
        app: folder of the app, with a ``main.py``.
        bundle: folder of the bundle.
        overwrite: replace a bundle of the same name.

    Returns:
        folder of the copy.

    Raises:
        UserError: when ``app`` is no app, ``bundle`` is no bundle, or the copy exists already or cannot be written.
    """
    if not (app / "main.py").is_file():
        raise UserError(
            f"{app}: found no main.py, expected MONAI Label's app; get it with monailabel apps --download --name "
            "monaibundle --output apps"
        )
    source = next(iter(find_bundles(str(bundle), bundle).values()))
    if not (source / "models" / "model.pt").is_file():
        raise UserError(f"{source}: found no models/model.pt, expected a trained bundle; train it first")
    target = app / "model" / source.name
    if target.exists() and not overwrite:
        raise UserError(f"{target}: found an existing bundle, expected a new name; add --overwrite to replace it")
    try:
        _copy(source, target)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror}), expected an app that you may write to; change its "
            "permissions, or give another --app"
        ) from error
    return target


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
        copy = Path(folder) / source.name
        for file in (file for part in _PARTS for file in source.glob(part)):
            (copy / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy / file.relative_to(source))
        config = json.loads((source / "configs" / "inference.json").read_text(encoding="utf-8"))
        config["displayable_configs"] = {key: config[key] for key in _OPTIONS}
        config |= {key: f"@displayable_configs::{key}" for key in _OPTIONS}
        text = json.dumps(config, indent=4, ensure_ascii=False)
        (copy / "configs" / "inference.json").write_text(text + "\n", encoding="utf-8")
        if target.exists():
            target.rename(Path(folder) / "before")
        copy.rename(target)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Copy a bundle into MONAI Label's monaibundle app, for inference.")
    parser.add_argument("--app", required=True, type=Path, help="folder of the app, with a main.py")
    parser.add_argument("--bundle", required=True, type=Path, help="folder of the bundle")
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle of the same name in the app")
    arguments = parser.parse_args(argv)
    try:
        target = put_bundle(arguments.app, arguments.bundle, arguments.overwrite)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{target}: copied; start the server with")
    print(
        f"  monailabel start_server --app {arguments.app} --studies <folder of scans> --host 127.0.0.1 "
        f"--conf models {target.name} --conf zoo_source ngc --conf sam2 false"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
