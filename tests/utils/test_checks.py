from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from monai_pdddpm.utils.checks import check_choice, check_output_dir, check_range
from monai_pdddpm.utils.errors import UserError


class TestOutputDir:
    def test_trial_leaves_nothing(self, tmp_path):
        check_output_dir(tmp_path / "a" / "b")
        assert list(tmp_path.iterdir()) == []

    def test_content_stays(self, tmp_path):
        (tmp_path / "a").touch()
        check_output_dir(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_many_checks_at_once(self, tmp_path):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(check_output_dir, [tmp_path / "a" / "b"] * 400))
        assert list(tmp_path.iterdir()) == []

    def test_file_in_the_way(self, tmp_path):
        (tmp_path / "a").touch()
        for path in (tmp_path / "a", tmp_path / "a" / "b"):
            with pytest.raises(UserError, match=r"cannot be written to.*set output_dir"):
                check_output_dir(path)

    def test_nothing_stays_when_writing_fails(self, tmp_path, monkeypatch):
        def full(self, data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(UserError, match="No space left"):
            check_output_dir(tmp_path / "a" / "b")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [1, 10, np.int64(5)])
def test_range_holds(value):
    check_range("members", value, 1, 10)


@pytest.mark.parametrize("value", [0, 11, -1, 5.0, "5", None, True, np.bool_(True), [5]])
def test_range_is_enforced(value):
    with pytest.raises(
        UserError, match=r"members: found .*, expected a whole number from 1 to 10; give members such a value"
    ):
        check_range("members", value, 1, 10)


def test_range_without_an_end():
    check_range("seed", 2**63 - 1, 0)
    for value, expected in ((-1, "of at least 0"), (2**63, f"from 0 to {2**63 - 1}")):
        with pytest.raises(UserError, match=expected):
            check_range("seed", value, 0)


def test_choice():
    check_choice("missing_channels", "zero", ("error", "zero"))
    for value in ("zeros", 0, None, ["zero"]):
        with pytest.raises(
            UserError, match=r"missing_channels: found .*, expected 'error' or 'zero'; give missing_cha"
        ):
            check_choice("missing_channels", value, ("error", "zero"))
