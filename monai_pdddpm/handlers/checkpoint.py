"""Checkpoints from which a stopped training resumes, and the model file of a bundle."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from monai.engines import Evaluator, Trainer

from monai_pdddpm.data.cache import CachedDataset
from monai_pdddpm.utils.atomic_write import atomic_write, make_folder, remove_partial_files
from monai_pdddpm.utils.errors import UserError, is_out_of_memory
from monai_pdddpm.utils.ranks import gathered, is_first_rank


def save_file(content: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write ``torch.save(content)`` in the first process, see :func:`monai_pdddpm.utils.atomic_write.atomic_write`."""
    if is_first_rank():
        make_folder(Path(path).parent)
        with atomic_write(path) as part, part.open("wb") as file:  # torch would store the name of a path
            torch.save(content, file)


def _remove_partial_files(folder: Path) -> None:
    if is_first_rank():
        remove_partial_files(folder, ".pt")


class EpochSeed:
    """Seed each epoch by its number, so that a resumed training continues as if it had not been stopped.

    Args:
        seed: seed of the run.
        dataset: its random transforms are seeded too, case by case.
    """

    def __init__(self, seed: int, dataset: CachedDataset) -> None:
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Seed at the start of each epoch, before its data loader starts."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed torch and the random transforms with ``seed + epoch``."""
        seed = self.seed + engine.state.epoch
        torch.manual_seed(seed)
        self.dataset.seed_epoch(seed)


class TrainingCheckpoint:
    """Save the state of a training, and resume from it by default.

    On Ctrl-C or SIGTERM the last complete epoch is saved. Attach this handler before other handlers of
    ``EXCEPTION_RAISED``, which would prevent that. The file has the state of every object in ``save_dict``, epoch,
    iteration and the best validation so far, as tensors and numbers only; it is read with ``weights_only=True``.
    Learning rate and weight decay are those of the new run.

    Args:
        path: file of the checkpoint.
        save_dict: name -> object with ``state_dict`` and ``load_state_dict``.
        evaluator: the validation, whose best metric is saved.
        interval_seconds: shortest time between two checkpoints; the last epoch is always saved.
        resume: False starts from the beginning and replaces the file.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        save_dict: Mapping[str, Any],
        evaluator: Evaluator,
        interval_seconds: float = 60.0,
        resume: bool = True,
    ) -> None:
        self.path = Path(path)
        self.save_dict = dict(save_dict)
        self.evaluator = evaluator
        self.interval_seconds = interval_seconds
        self.resume = resume
        self._saved_at = time.monotonic()
        self._unsaved: dict[str, Any] | None = None
        self._epoch = 0  # the last complete one

    def attach(self, engine: Trainer) -> None:
        """Load when ``engine`` starts, save when an epoch (and its validation, attached before) is complete."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop)

    def load(self, engine: Trainer) -> None:
        """Restore all objects and ``engine`` if there is a checkpoint.

        Raises:
            UserError: if the file is not a checkpoint of this training, or some processes do not see it.
        """
        _remove_partial_files(self.path.parent)
        seen = gathered(self.resume and self.path.is_file())
        if any(seen) and not all(seen):
            raise UserError(
                f"{self.path}: found by {sum(seen)} of {len(seen)} processes, expected by all; give an output_dir on a "
                "disk that all machines share"
            )
        if not all(seen):
            return
        remedy = "give another output_dir, remove the file, or start again with --resume False"
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for unknown files
            raise UserError(
                f"{self.path}: cannot be read as a checkpoint: it is damaged, no PyTorch file, or has more than "
                f"tensors and numbers, which is refused for safety; {remedy}"
            ) from error
        try:
            if missing := [name for name in (*self.save_dict, "progress") if name not in state]:
                raise ValueError(f"it holds no {', '.join(missing)}")
            for name, item in self.save_dict.items():
                if isinstance(item, torch.optim.Optimizer):
                    _keep_settings(item, state[name]["param_groups"], engine)
                elif "base_lrs" in state[name]:
                    state[name]["base_lrs"] = item.base_lrs
            Checkpoint.load_objects(self.save_dict, state)
            self._restore(engine, state["progress"])
        except Exception as error:  # and so do objects for a foreign state
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.path}: not a checkpoint of this training ({reason[:150]}); {remedy}") from error
        done = engine.state.epoch >= engine.state.max_epochs
        text = "already trained for {} epochs; train longer with --max_epochs, or start again with --resume False"
        engine.logger.info(f"{self.path}: {(text if done else 'resuming after epoch {}').format(engine.state.epoch)}")

    def _restore(self, engine: Trainer, progress: Mapping[str, Any]) -> None:
        engine.state.epoch = self._epoch = int(progress["epoch"])
        # ignite counts iterations to find the end, and the data or the batch may have become larger
        length = engine.state.epoch_length
        engine.state.iteration = int(progress["iteration"]) if length is None else engine.state.epoch * length
        if progress["best_metric_epoch"] >= 0:
            self.evaluator.state.best_metric = progress["best_metric"]
            self.evaluator.state.best_metric_epoch = int(progress["best_metric_epoch"])

    def save(self, engine: Trainer) -> None:
        """Save if the interval has passed or the training is over; otherwise keep a copy of the epoch."""
        self._epoch = int(engine.state.epoch)
        state = {name: item.state_dict() for name, item in self.save_dict.items()}
        state["progress"] = {
            "epoch": self._epoch,
            "iteration": int(engine.state.iteration),
            "best_metric": float(self.evaluator.state.best_metric),
            "best_metric_epoch": int(self.evaluator.state.best_metric_epoch),
        }
        self._unsaved = copy.deepcopy(state)
        if self._epoch >= engine.state.max_epochs or time.monotonic() - self._saved_at >= self.interval_seconds:
            self._write()

    def _write(self) -> None:
        if self._unsaved is not None:
            save_file(self._unsaved, self.path)
            self._unsaved, self._saved_at = None, time.monotonic()

    def _stop(self, engine: Trainer, error: BaseException) -> None:
        """Save the last complete epoch on an interrupt, and raise the error again."""
        if isinstance(error, KeyboardInterrupt):
            self._write()
            kept = "stopped before the end of the first epoch, nothing is saved; the same command starts again"
            if self._epoch:
                kept = f"{self.path}: stopped, {self._epoch} of {engine.state.max_epochs} epochs are saved; the same "
                kept += "command resumes the training"
            engine.logger.info(kept)
        if is_out_of_memory(error):
            raise UserError(
                "batch_size: found too little memory for a step of the training; give a smaller --batch_size or "
                "--roi_size, or end other programs"
            ) from error
        raise error


def _keep_settings(optimizer: torch.optim.Optimizer, groups: Sequence[dict[str, Any]], engine: Trainer) -> None:
    """Put the initial rates and weight decays of ``optimizer`` into the saved groups, and scale their rates."""
    for own, saved in zip(optimizer.param_groups, groups, strict=False):  # loading refuses another number of groups
        key = "initial_lr" if "initial_lr" in own else "lr"  # a schedule adds the first
        before, now = saved[key], own[key]
        if now != before:
            saved |= {"lr": saved["lr"] * now / before, key: now}
            engine.logger.info(f"learning_rate: {before:g} in the checkpoint, {now:g} from now on")
        saved |= {name: own[name] for name in ("weight_decay",) if name in own}


class ModelSaver:
    """Write the model file: the best state by validation, or the last one.

    The best Dice suits a segmenter. A denoiser's Dice is stable long before its probabilities are right, so its last
    state is kept.

    Args:
        path: the file, a bare state dict.
        network: the network whose state is written.
        evaluator: the validation, whose key metric decides; the last state is kept if it never ran.
        checkpoint_policy: ``"best"``, or ``"last"`` to save after every validation and at the end.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        network: torch.nn.Module,
        evaluator: Evaluator,
        checkpoint_policy: str = "best",
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.evaluator = evaluator
        self.checkpoint_policy = checkpoint_policy

    def attach(self, engine: Trainer) -> None:
        """Save after validations, and after the last epoch of ``engine`` unless the best was saved."""
        self.evaluator.add_event_handler(Events.COMPLETED, self._save_best)
        engine.add_event_handler(Events.STARTED, lambda engine: _remove_partial_files(self.path.parent))
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _end_epoch(self, engine: Trainer) -> None:
        if engine.state.epoch >= engine.state.max_epochs:
            self._save_last()  # before a checkpoint marks the training as finished

    def _complete(self, engine: Trainer) -> None:
        if not self.path.exists():
            self._save_last()
        if is_first_rank() and not self.path.exists():
            raise UserError(
                f"model_file: found no {self.path}, which held the best state of this finished training; give its "
                "path, train again with --resume False, or take the last state with --checkpoint_policy last"
            )

    def _save_best(self, evaluator: Evaluator) -> None:
        if self.checkpoint_policy == "last" or evaluator.state.best_metric_epoch == evaluator.state.epoch:
            self.save()

    def _save_last(self) -> None:
        if self.checkpoint_policy == "last" or self.evaluator.state.best_metric_epoch < 0:
            self.save()

    def save(self) -> None:
        """Write the file."""
        save_file(self.network.state_dict(), self.path)
