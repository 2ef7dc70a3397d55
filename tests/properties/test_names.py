"""Names that a file system may take for one: refused before any work, whatever their letters."""

import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monai_pdddpm.data import inference_cases
from monai_pdddpm.data.case import Case
from monai_pdddpm.utils.errors import UserError

NAMES = st.text(st.characters(categories=["Ll", "Lu", "Lo", "Nd"], max_codepoint=0x1F00), min_size=1, max_size=6)
FORMS = (
    str.lower,
    str.upper,
    lambda name: unicodedata.normalize("NFC", name),
    lambda name: unicodedata.normalize("NFD", name),
)


def listed(*names):
    with tempfile.TemporaryDirectory() as root:
        for number, name in enumerate(names):
            (Path(root) / str(number)).mkdir()
            (Path(root) / str(number) / f"{name}.nii.gz").write_bytes(b"x")
        cases = [f'"{number}/{name}.nii.gz"' for number, name in enumerate(names)]
        (Path(root) / "dataset.json").write_text(f'{{"test": [{", ".join(cases)}]}}', encoding="utf-8")
        return inference_cases(root)


@given(NAMES, st.sampled_from(FORMS))
@example("ı", str.upper)  # whose other form is I, the upper case of i
def test_another_form_of_a_name_is_the_same_folder(name, form):
    with pytest.raises(UserError, match="both have the name"):
        listed(name, form(name))


@given(NAMES, NAMES)
def test_two_names_are_both_kept_or_refused_by_both_file_systems(one, other):
    same = Case.of(f"{one}.nii").folder_key == Case.of(f"{other}.nii").folder_key
    if same:
        with pytest.raises(UserError, match="expected a different name"):
            listed(one, other)
    else:
        assert len(listed(one, other)) == 2
        assert one.lower() != other.lower()
        assert unicodedata.normalize("NFD", one) != unicodedata.normalize("NFD", other)
