"""All kinds of bad and odd inputs: how each is made, and what has to become of it."""

from kinds_of_folders import KINDS as FOLDERS
from kinds_of_nifti import KINDS as NIFTI
from kinds_of_settings import KINDS as SETTINGS

KINDS = [*NIFTI, *FOLDERS, *SETTINGS]
