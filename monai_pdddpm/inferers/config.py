"""The settings of an ensemble: one frozen object that validates itself."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Number
from typing import Any

from monai_pdddpm.data.scan_spec import FOURTH_DIMENSIONS
from monai_pdddpm.networks import FIXED_STEP_SOLVERS
from monai_pdddpm.schedulers import AncestralRule, Chain, DDIMRule, check_steps
from monai_pdddpm.utils.checks import check_choice, check_list, check_number, check_range, check_switch
from monai_pdddpm.utils.errors import UserError

from .autocast import PRECISIONS

_RENAMED = {
    "segmenter_share": "presegmentation_weight",
    "doubt": "uncertainty_threshold",
    "margin": "dilation",
    "active": "windows",
}
_WITHOUT_EFFECT = ("fourth_dimension", "member_batch", "memory", "return_members", "progress")


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """Settings of :class:`monai_pdddpm.inferers.PDDDPMInferer`.

    Args:
        roi_size: window in voxels, one number per spatial axis, a multiple of the denoiser's ``divisor``.
        time_steps: strictly descending time indices of the chain; an empty list returns the pre-segmentation.
        members: number of members, 1 or more.
        seed: seed of the members' noise, 0 or more.
        overlap: smallest fraction, 0 to below 1, that neighboring windows share.
        rule: reverse step of the chain.
        presegmentation_weight: weight of the segmenter in the answer, 0 to below 1. Variance and mutual information
            are those of the members alone.
        large_scale_noise: amplitude of a smooth field in the start noise, relative to the white field, 0 or more. Few
            steps shrink the differences between members at large scales; this field restores them.
        noise_length: correlation length of the smooth field in voxels, 1 or more.
        windows: ``"active"`` runs the denoiser in windows with active voxels only, ``"all"`` in every window.
        uncertainty_threshold: a voxel is active if the probability beside its likeliest class exceeds this, 0 to
            below 1.
        dilation: voxels by which the active region is dilated, 0 or more.
        fourth_dimension: ``"channel"`` if the channels of an image are modalities, ``"time"`` if they are frames.
        member_batch: largest number of members that run through the denoiser together.
        memory: MiB for the members in work; 0 takes 256 on a CPU and an eighth of the free memory on a GPU.
        return_members: append every member's probabilities to the output.
        solver: solver of the ODE blocks; empty uses the network's own.
        solver_steps: solver steps, 0 for the network's own; a list has one number per time step.
        precision: precision of the networks: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        progress: show a progress bar on a terminal.

    Raises:
        UserError: if a setting is out of range.
    """

    roi_size: Sequence[int]
    time_steps: Sequence[int]
    members: int = 8
    seed: int = 0
    overlap: float = 0.5
    rule: DDIMRule | AncestralRule = field(default_factory=DDIMRule)
    presegmentation_weight: float = 0.0
    large_scale_noise: float = 0.0
    noise_length: float = 6.0
    windows: str = "active"
    uncertainty_threshold: float = 0.05
    dilation: int = 2
    fourth_dimension: str = "channel"
    member_batch: int = 8
    memory: int = 0
    return_members: bool = False
    solver: str = ""
    solver_steps: int | Sequence[int] = 0
    precision: str = "bfloat16"
    progress: bool = True

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> EnsembleConfig:
        """Return the configuration made of keyword settings.

        Raises:
            UserError: if a key is unknown, with the nearest known key, or missing.
        """
        known = [f.name for f in fields(cls)]
        for key in settings:
            if key not in known:
                nearest = [_RENAMED[key]] if key in _RENAMED else difflib.get_close_matches(key, known, 1)
                remedy = f"write '{nearest[0]}'" if nearest else "remove it"
                raise UserError(f"inferer: found the setting '{key}', expected one of {', '.join(known)}; {remedy}")
        missing = [key for key in ("roi_size", "time_steps") if key not in settings]
        if missing:
            raise UserError(f"inferer: found no setting '{missing[0]}', expected one; add it to the configuration")
        return cls(**settings)

    def __post_init__(self) -> None:
        for name, low in (("members", 1), ("member_batch", 1), ("dilation", 0), ("memory", 0)):
            self._set(name, check_range(name, getattr(self, name), low))
        self._set("seed", check_range("seed", self.seed, 0, 2**63 - 1))  # the largest seed of torch
        for name in ("overlap", "presegmentation_weight", "uncertainty_threshold"):
            self._set(name, check_number(name, getattr(self, name), 0, 1, below=True))
        for name, low in (("large_scale_noise", 0), ("noise_length", 1)):
            self._set(name, check_number(name, getattr(self, name), low))
        for name, words in (
            ("windows", ("active", "all")),
            ("fourth_dimension", FOURTH_DIMENSIONS),
            ("precision", PRECISIONS),
            ("solver", ("", *FIXED_STEP_SOLVERS)),
        ):
            check_choice(name, getattr(self, name), words)
        for name in ("return_members", "progress"):
            check_switch(name, getattr(self, name))
        if not isinstance(self.rule, DDIMRule | AncestralRule):
            raise UserError(f"rule: found {self.rule!r}, expected a reverse step; set inferer#rule#_target_")
        self._set("roi_size", tuple(check_range("roi_size", r, 1) for r in check_list("roi_size", self.roi_size)))
        self._set("time_steps", tuple(check_steps(self.time_steps)))
        steps = self._solver_steps()
        self._set("solver_steps", tuple(steps))
        if self.solver == "euler" and min(steps, default=2) < 2:
            raise UserError(
                "solver: found 'euler', which ignores the diffusion time in a single step, expected at least 2 steps; "
                "give --inferer#solver_steps 2, or the solver midpoint"
            )

    def _solver_steps(self) -> list[int]:
        """Return the solver steps at each time step."""
        given, count = self.solver_steps, len(self.time_steps)
        steps = [given] * count if isinstance(given, Number) else check_list("solver_steps", given)
        if len(steps) == 1:
            steps *= count
        if len(steps) != count:
            raise UserError(
                f"solver_steps: found {given!r}, expected one number, or one for each of the {count} time steps; fix "
                "--inferer#solver_steps"
            )
        return [check_range("solver_steps", n, 0) for n in steps]

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def chain(self) -> Chain:
        """Return the reverse chain of these settings."""
        return Chain(
            time_steps=list(self.time_steps),
            solver_steps=self._solver_steps(),
            eta=float(self.rule.eta),
            large_variance=self.rule.large_variance,
            solver=self.solver,
        )

    def as_report(self) -> dict[str, Any]:
        """Return the settings that change the result, as JSON values."""
        found = {name: value for name, value in vars(self).items() if name not in _WITHOUT_EFFECT}
        lists = {name: list(value) for name, value in found.items() if isinstance(value, tuple)}
        start = self.time_steps[0] + 1 if self.time_steps else 0
        return found | lists | {"rule": str(self.rule), "start_step": start}
