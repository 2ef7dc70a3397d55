"""Checkpoints that a killed training goes on from, and the model file that is shipped."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines import Evaluator, Trainer

from monai_pdddpm.data.cache import CachedDataset
from monai_pdddpm.utils.atomic_write import atomic_write, remove_partial_files
from monai_pdddpm.utils.errors import UserError
from monai_pdddpm.utils.ranks import gathered, is_first_rank
from monai_pdddpm.utils.resource_errors import is_out_of_memory


def save_atomically(content: Any, path: str | os.PathLike) -> None:
    """Write ``torch.save(content)`` so that ``path`` is either the old file or the complete new one."""
    _write(_packed(content), Path(path))


def _packed(content: Any) -> memoryview:
    # in memory first: torch's own error for a full disk does not say so, and a file's name would go into its content
    packed = io.BytesIO()
    torch.save(content, packed)
    return packed.getbuffer()


def _write(packed: memoryview, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        part.write_bytes(packed)


def _number(value: Any) -> float:
    return float(value.item()) if hasattr(value, "item") else float(value)


class EpochSeed:
    """Give every epoch its own seed, so that an epoch is the same whether or not the run was broken before it.

    Args:
        seed: the run's seed.
        dataset: its random transforms are seeded too, case by case in a
            :class:`monai_pdddpm.data.CachedDataset` (of others all together, in worker processes by torch's seed).
    """

    def __init__(self, seed: int, dataset: torch.utils.data.Dataset | None = None) -> None:
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Seed at the start of each epoch of ``engine``, before its data loader is asked."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed torch and the random transforms with ``seed + epoch``."""
        seed = self.seed + engine.state.epoch
        torch.manual_seed(seed)
        if isinstance(self.dataset, CachedDataset):
            self.dataset.seed_epoch(seed)
        elif self.dataset is not None:
            set_rnd(self.dataset, seed)


class TrainingCheckpoint:
    """Save all that a training needs to go on, and go on from it by default.

    A training that is stopped by Ctrl-C or SIGTERM saves its last complete epoch first, which is held in memory until
    then, and says so; to be attached before other handlers of ``EXCEPTION_RAISED``, which would keep it from that. What
    a killed training had begun to write is removed by the next one.

    The file holds tensors and primitives only and is read with ``weights_only=True``. It carries the state of every
    object in ``save_dict``, the trainer's epoch and iteration, and the best validation so far. Of several processes the
    first one writes, and all read.

    Args:
        path: the checkpoint's file.
        save_dict: name -> object with ``state_dict`` and ``load_state_dict``.
        evaluator: the validation, whose best metric is kept.
        interval_seconds: least time between two checkpoints; the last epoch is always saved.
        resume: False starts anew and replaces the file.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        save_dict: Mapping[str, Any],
        evaluator: Evaluator | None = None,
        interval_seconds: float = 60.0,
        resume: bool = True,
    ) -> None:
        self.path = Path(path)
        self.save_dict = dict(save_dict)
        self.evaluator = evaluator
        self.interval_seconds = interval_seconds
        self.resume = resume
        self._saved_at = time.monotonic()
        self._unsaved: memoryview | None = None
        self._epoch = 0  # the last one that is complete

    def attach(self, engine: Trainer) -> None:
        """Load when ``engine`` starts, save when an epoch (and its validation, attached before) is complete."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop)

    def load(self, engine: Trainer) -> None:
        """Bring all objects and ``engine`` back to the saved epoch, when there is a checkpoint.

        Raises:
            UserError: when the file is not a checkpoint of this training, or not all processes see it.
        """
        if is_first_rank():
            remove_partial_files(self.path.parent, self.path.suffix)
        seen = gathered(self.resume and self.path.is_file())
        if any(seen) and not all(seen):
            raise UserError(
                f"{self.path}: found by {sum(seen)} of {len(seen)} processes, expected by all; give an output_dir on a "
                "disk that all machines share"
            )
        if not all(seen):
            return
        advice = "give another output_dir, remove the file, or start anew with --resume False"
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a file that it does not know
            raise UserError(
                f"{self.path}: cannot be read as a checkpoint, being damaged, no PyTorch file, or more than tensors and"
                f" numbers, which is not loaded for safety; {advice}"
            ) from error
        try:
            missing = [name for name in (*self.save_dict, "progress") if name not in state]
            if missing:
                raise ValueError(f"it holds no {', '.join(missing)}")
            for name, item in self.save_dict.items():
                item.load_state_dict(state[name])
            self._go_on(engine, state["progress"])
        except Exception as error:  # and so do the objects for a state that is not theirs
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.path}: not a checkpoint of this training ({reason[:150]}); {advice}") from error
        if engine.state.epoch >= engine.state.max_epochs:
            engine.logger.info(
                f"{self.path}: already trained for {engine.state.epoch} epochs; ask for more with "
                f"--max_epochs, or start anew with --resume False"
            )
        else:
            engine.logger.info(f"{self.path}: going on after epoch {engine.state.epoch}")

    def _go_on(self, engine: Trainer, progress: Mapping[str, Any]) -> None:
        engine.state.epoch = self._epoch = int(progress["epoch"])
        # ignite counts iterations to know when it is done, and the data or the batch may have become larger
        length = engine.state.epoch_length
        engine.state.iteration = int(progress["iteration"]) if length is None else engine.state.epoch * length
        if self.evaluator is not None and progress["best_metric_epoch"] >= 0:
            self.evaluator.state.best_metric = progress["best_metric"]
            self.evaluator.state.best_metric_epoch = int(progress["best_metric_epoch"])

    def save(self, engine: Trainer) -> None:
        """Save, when enough time has passed or the training is over; else hold the epoch in memory."""
        if not is_first_rank():
            return
        best_epoch = -1 if self.evaluator is None else int(self.evaluator.state.best_metric_epoch)
        progress = {
            "epoch": int(engine.state.epoch),
            "iteration": int(engine.state.iteration),
            "best_metric": _number(self.evaluator.state.best_metric) if self.evaluator and best_epoch >= 0 else -1.0,
            "best_metric_epoch": best_epoch,
        }
        states = {name: item.state_dict() for name, item in self.save_dict.items()}
        self._unsaved, self._epoch = _packed(states | {"progress": progress}), int(engine.state.epoch)
        last = engine.state.epoch >= engine.state.max_epochs
        if last or time.monotonic() - self._saved_at >= self.interval_seconds:
            self._write_unsaved()

    def _write_unsaved(self) -> None:
        if self._unsaved is not None:
            _write(self._unsaved, self.path)
            self._unsaved, self._saved_at = None, time.monotonic()

    def _stop(self, engine: Trainer, error: BaseException) -> None:
        """Save what is held in memory when ``engine`` is stopped; whatever ended it goes on.

        Raises:
            UserError: when it was memory that ran short.
            BaseException: else what ended it.
        """
        if isinstance(error, KeyboardInterrupt) and is_first_rank():
            self._write_unsaved()
            kept = f"{self._epoch} of {engine.state.max_epochs} epochs are kept" if self._epoch else "no epoch is done"
            engine.logger.info(f"{self.path}: stopped, {kept}; the same command goes on from there")
        if is_out_of_memory(error):
            raise UserError(
                "batch_size: the memory does not suffice for a step of the training; give a smaller --batch_size or "
                "--roi_size, or end other programs"
            ) from error
        raise error


class ModelSaver:
    """Write the model file after each validation that is the best so far, or after each and at the end.

    The best by Dice suits a segmenter. A denoiser's Dice settles long before its probabilities are right, so its last
    state is the one to keep.

    Args:
        path: the file, ``{"model": state_dict}`` with tensors only.
        network: whose state is written.
        evaluator: the validation, whose key metric decides; without one the last state is kept.
        checkpoint_policy: ``"best"`` or ``"last"``.

    Raises:
        UserError: when ``checkpoint_policy`` is neither.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        network: torch.nn.Module,
        evaluator: Evaluator | None = None,
        checkpoint_policy: str = "best",
    ) -> None:
        if checkpoint_policy not in ("best", "last"):
            raise UserError(
                f"checkpoint_policy: found {checkpoint_policy!r}, expected best or last; fix --checkpoint_policy"
            )
        self.path = Path(path)
        self.network = network
        self.evaluator = evaluator
        self.checkpoint_policy = checkpoint_policy
        self._trained = False

    def attach(self, engine: Trainer) -> None:
        """Save after validations, and at the end of ``engine`` unless the best was saved or nothing was trained."""
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._save_best)
        engine.add_event_handler(Events.STARTED, self._clean)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._save_last)

    def _clean(self, engine: Trainer) -> None:
        if is_first_rank():
            remove_partial_files(self.path.parent, self.path.suffix)

    def _end_epoch(self, engine: Trainer) -> None:
        self._trained = True
        if engine.state.epoch >= engine.state.max_epochs:
            self._save_last(engine)  # before a checkpoint says that the training is over
            self._trained = False

    def _save_best(self, evaluator: Evaluator) -> None:
        if self.checkpoint_policy == "last" or evaluator.state.best_metric_epoch == evaluator.state.epoch:
            self.save()

    def _save_last(self, engine: Trainer) -> None:
        if not self._trained and self.path.exists():
            return
        if self.checkpoint_policy == "last" or self.evaluator is None or self.evaluator.state.best_metric_epoch < 0:
            self.save()

    def save(self) -> None:
        """Write the file, as the first process."""
        if is_first_rank():
            save_atomically({"model": self.network.state_dict()}, self.path)
