"""The next commands of a new bundle can be pasted into a shell."""

import json
import shlex
from pathlib import Path

from monai_pdddpm.cli.readme import commands


def test_folder_with_a_quote_and_spaces():
    configs = Path("/data/the user's bundles/configs")
    train, calibrate, *_ = (shlex.split(line)[-1] for line in commands(configs.parent, ["train"]))
    assert train == str(configs / "train.json")
    assert json.loads(calibrate) == [str(configs / "inference.json"), str(configs / "calibrate.json")]
