"""Keys of version 0.1 that have another name, and the message that refuses them."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable

from monai.bundle import ReferenceResolver

from monai_pdddpm.utils.errors import UserError

_REMOVED = ""
RENAMED = {
    "active": "inferer#windows",
    "channel_def": "scan#channel_names",
    "channels": "scan#channels",
    "codes": "dicom_codes",
    "compile": _REMOVED,
    "dilation": "inferer#dilation",
    "doubt": "inferer#uncertainty_threshold",
    "end_fraction": "end_step",
    "end_share": "end_step",
    "fourth_dimension": "scan#fourth_dimension",
    "fusion": _REMOVED,
    "keep": "checkpoint_policy",
    "label_range": "network_def#label_range",
    "leave_out": "fold",
    "margin": "inferer#dilation",
    "overlap": "inferer#overlap",
    "prediction": "network_def#prediction",
    "presegmentation_smoothing": _REMOVED,
    "proposal": "presegmentation",
    "proposal_smoothing": _REMOVED,
    "rule": "inferer#rule",
    "section": "data_list_key",
    "segmenter_share": "presegmentation_weight",
    "solver_steps": "inferer#solver_steps",
    "spatial_dims": "scan#spatial_dims",
    "steps": "num_steps",
    "train_sections": "train_list_keys",
    "uncertainty_threshold": "inferer#uncertainty_threshold",
    "windows": "inferer#windows",
    "write_dicom_seg": "outputs",
    "write_members": "outputs",
    "write_report": "outputs",
    "write_scene": "outputs",
    "write_seg_nrrd": "outputs",
}


def check_keys(keys: Iterable[str]) -> None:
    """Refuse keys of version 0.1.

    Raises:
        UserError: at the first key that has another name now.
    """
    for key in keys:
        if key in RENAMED:
            new = RENAMED[key]
            remedy = f"expected '{new}', its new name; write --{new}" if new else "which was removed; leave it out"
            raise UserError(f"{key}: found a key of version 0.1, {remedy}")


def refuse_renamed_keys() -> None:
    """Check the keys of the configuration that calls this function in an expression.

    MONAI passes no configuration to an expression, and accepts unknown keys silently. The configuration is therefore
    read from the resolver that evaluates the expression.
    """
    for frame, _ in traceback.walk_stack(inspect.currentframe()):
        resolver = frame.f_locals.get("self")
        if isinstance(resolver, ReferenceResolver):
            return check_keys(resolver.items)
    return None
