"""A training that was killed goes on as if nothing had been, and no file is ever half written."""

import logging
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from ignite.metrics import Metric
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.transforms import Compose, EnsureTyped, RandFlipd, RandGaussianNoised, RandSpatialCropd
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR

from monai_pdddpm.data import CachedDataset
from monai_pdddpm.handlers import EpochSeed, ModelSaver, TrainingCheckpoint
from monai_pdddpm.handlers.checkpoint import save_file
from monai_pdddpm.optimizers import CosineDecay
from monai_pdddpm.utils.errors import UserError

EPOCHS = 6
COSINE = partial(CosineAnnealingLR, T_max=EPOCHS)
SCORES = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.8, 5: 0.85, 6: 0.6}


class Score(Metric):
    """A validation metric that was settled beforehand."""

    def __init__(self, scores, trainer):
        self.scores, self.trainer = scores, trainer
        super().__init__()

    def reset(self):
        pass

    def update(self, output):
        pass

    def compute(self):
        return self.scores[self.trainer.state.epoch]


@dataclass
class Training:
    """A small training with all that has a state: random transforms, dropout, Adam, a schedule, a moving average."""

    folder: Path
    epochs: int = EPOCHS
    resume: bool = True
    scores: dict = field(default_factory=lambda: dict(SCORES))
    workers: int = 0
    interval: float = 0.0
    init: int = 0
    seed: int = 0
    rate: float = 0.02
    decay: float = 0.0
    schedule: Callable = COSINE

    def __post_init__(self):
        generator = torch.Generator().manual_seed(0)
        data = [{"image": torch.randn(1, 12, 12, generator=generator)} for _ in range(7)]
        data = [case | {"label": case["image"] * 2 + 1} for case in data]
        keys = ["image", "label"]
        transform = Compose(
            [
                EnsureTyped(keys, track_meta=False),
                RandSpatialCropd(keys, (8, 8), random_size=False),
                RandFlipd(keys, 0.5, 0),
                RandGaussianNoised("image", 0.7),
            ]
        )
        dataset = CachedDataset(data, transform, progress=False)
        torch.manual_seed(self.init)
        self.network = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(0.3), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)
        )
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.rate, weight_decay=self.decay)
        schedule = self.schedule(optimizer)
        ema = EMAHandler(self.network, momentum=0.1)
        self.parts = {
            "network": self.network, "optimizer": optimizer, "lr_scheduler": schedule, "ema": ema.ema_model
        }  # fmt: skip
        self.trainer = SupervisedTrainer(
            torch.device("cpu"),
            self.epochs,
            DataLoader(dataset, batch_size=2, shuffle=True, num_workers=self.workers),
            self.network,
            optimizer,
            nn.MSELoss(),
            decollate=False,
        )
        self.evaluator = SupervisedEvaluator(
            torch.device("cpu"),
            DataLoader(data[:1], batch_size=1),
            self.network,
            key_val_metric={"score": Score(self.scores, self.trainer)},
        )
        self.checkpoint = TrainingCheckpoint(
            self.folder / "checkpoint.pt", self.parts, self.evaluator, self.interval, self.resume
        )
        handlers = [
            EpochSeed(self.seed, dataset),
            LrScheduleHandler(schedule, print_lr=False),
            ValidationHandler(1, self.evaluator),
            ModelSaver(self.folder / "model.pt", self.network, self.evaluator),
            self.checkpoint,
            ema,
        ]
        for handler in handlers:
            handler.attach(self.trainer)
        self.losses, self.weights = {}, {}
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._keep)

    def _keep(self, engine):
        state = engine.state
        self.losses[state.iteration] = state.output["loss"].item()
        self.weights[state.epoch] = {k: v.clone() for k, v in self.network.state_dict().items()}

    def run(self, die_at=None):
        """Train; when ``die_at`` is an iteration, die there."""

        def die(engine):
            if engine.state.iteration == die_at:
                raise KeyboardInterrupt

        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, die)
        if die_at is None:
            self.trainer.run()
        else:
            with pytest.raises(KeyboardInterrupt):
                self.trainer.run()
        return self

    @property
    def states(self):
        return {name: part.state_dict() for name, part in self.parts.items()}


def same(first, second):
    """Compare nested states bit by bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def read(path):
    return torch.load(path, weights_only=True)


class TestGoingOn:
    @pytest.mark.parametrize(
        ("die_at", "workers"),
        # in epoch 4, at the last iteration of epoch 3, at the very first
        [(14, 0), (12, 0), (1, 0), pytest.param(14, 1, marks=pytest.mark.slow)],
    )
    def test_as_if_never_broken(self, tmp_path, caplog, die_at, workers):
        caplog.set_level(logging.INFO)
        whole = Training(tmp_path / "whole", workers=workers).run()
        assert sorted(whole.losses) == list(range(1, 4 * EPOCHS + 1))  # 7 cases in twos
        broken = Training(tmp_path / "broken", workers=workers).run(die_at)
        torch.manual_seed(999)
        # other first weights, which the checkpoint's replace, unless there is none yet
        resumed = Training(tmp_path / "broken", workers=workers, init=0 if die_at == 1 else 99).run()
        done = (die_at - 1) // 4 * 4
        assert (f"{tmp_path / 'broken/checkpoint.pt'}: resuming after epoch {done // 4}" in caplog.text) == (done > 0)
        assert sorted(resumed.losses) == list(range(done + 1, 4 * EPOCHS + 1))
        history = {i: loss for i, loss in broken.losses.items() if i <= done} | resumed.losses
        assert history == whole.losses
        assert same(resumed.states, whole.states)
        assert same(read(tmp_path / "broken/model.pt"), read(tmp_path / "whole/model.pt"))
        assert resumed.trainer.state.epoch == whole.trainer.state.epoch == EPOCHS
        assert resumed.evaluator.state.best_metric_epoch == whole.evaluator.state.best_metric_epoch == 2

    def test_more_epochs_may_be_asked_for(self, tmp_path):
        whole = Training(tmp_path / "whole").run()
        Training(tmp_path / "more", epochs=4).run()
        assert same(Training(tmp_path / "more", init=1).run().states, whole.states)

    def test_another_number_of_iterations_an_epoch(self, tmp_path):
        Training(tmp_path).run(14)
        training = Training(tmp_path)
        training.trainer.state.epoch_length = 3  # as with a larger batch
        training.run()
        assert training.trainer.state.epoch == EPOCHS
        assert len(training.losses) == 3 * 3

    @pytest.mark.parametrize(
        ("schedule", "rate"),  # after 4 of 6 epochs
        [
            (partial(CosineDecay, epochs=EPOCHS), 0.0005),
            (COSINE, 0.0005),
            (partial(ConstantLR, factor=1.0), 0.002),
        ],
    )
    def test_another_learning_rate_and_weight_decay(self, tmp_path, caplog, schedule, rate):
        caplog.set_level(logging.INFO)
        Training(tmp_path, epochs=2, schedule=schedule).run()
        Training(tmp_path, epochs=3, schedule=schedule).run()
        assert "from now on" not in caplog.text
        resumed = Training(tmp_path, epochs=4, schedule=schedule, rate=0.002, decay=0.1).run()
        assert "learning_rate: 0.02 in the checkpoint, 0.002 from now on" in caplog.text
        group = resumed.parts["optimizer"].param_groups[0]
        assert group["lr"] == pytest.approx(rate, rel=1e-9)
        assert (group["initial_lr"], group["weight_decay"]) == (0.002, 0.1)
        assert resumed.parts["lr_scheduler"].base_lrs == [0.002]

    def test_start_anew(self, tmp_path):
        whole = Training(tmp_path).run()
        (tmp_path / "checkpoint.pt").write_text("not even readable")
        again = Training(tmp_path, resume=False).run()
        assert again.losses == whole.losses
        assert read(tmp_path / "checkpoint.pt")["progress"]["epoch"] == EPOCHS

    def test_finished_training_says_so_and_trains_no_further(self, tmp_path, caplog):
        whole = Training(tmp_path).run()
        before = (tmp_path / "model.pt").read_bytes()
        with caplog.at_level(logging.INFO):
            again = Training(tmp_path, init=1).run()
        assert "already trained for 6 epochs; train longer with --max_epochs" in caplog.text
        assert again.losses == {}
        assert same(again.states, whole.states)
        assert (tmp_path / "model.pt").read_bytes() == before

    def test_seeds_and_epochs_differ(self, tmp_path):
        first, second = Training(tmp_path / "a").run(), Training(tmp_path / "b", seed=50).run()
        assert first.losses != second.losses
        # each epoch sees other crops, flips and noise
        images = []
        training = Training(tmp_path / "c", epochs=3)
        training.trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine: images.append(engine.state.output["image"])
        )
        training.run()
        assert not any(torch.equal(images[i], images[j]) for i in range(4) for j in range(4, 12))


class TestFrequency:
    def test_not_oftener_than_asked_but_at_the_end(self, tmp_path, monkeypatch):
        now = [0.0]
        monkeypatch.setattr("monai_pdddpm.handlers.checkpoint.time", SimpleNamespace(monotonic=lambda: now[0]))
        training, saved = Training(tmp_path, interval=10), []

        def pass_time(engine):
            now[0] += 6  # an epoch takes that long

        def look(engine):
            if (tmp_path / "checkpoint.pt").exists():
                saved.append((engine.state.epoch, read(tmp_path / "checkpoint.pt")["progress"]["epoch"]))

        training.trainer.add_event_handler(Events.EPOCH_STARTED, pass_time)
        training.trainer.add_event_handler(Events.EPOCH_COMPLETED, look)
        training.run()
        assert saved == [(2, 2), (3, 2), (4, 4), (5, 4), (6, 6)]

    def test_last_epoch_is_saved_when_the_training_is_stopped(self, tmp_path, caplog):
        whole = Training(tmp_path / "whole").run()
        with caplog.at_level(logging.INFO):
            Training(tmp_path / "stopped", interval=3600).run(14)
        assert read(tmp_path / "stopped/checkpoint.pt")["progress"]["epoch"] == 3
        told = "checkpoint.pt: stopped, 3 of 6 epochs are saved; the same command resumes the training"
        assert f"{tmp_path / 'stopped'}/{told}" in caplog.text
        resumed = Training(tmp_path / "stopped", interval=3600, init=7).run()
        assert same(resumed.states, whole.states)

    def test_stopped_in_its_first_epoch(self, tmp_path, caplog):
        with caplog.at_level(logging.INFO):
            Training(tmp_path, interval=3600).run(2)
        assert (
            "stopped before the end of the first epoch, nothing is saved; the same command starts again" in caplog.text
        )
        assert str(tmp_path) not in caplog.text  # there is no file to name
        assert os.listdir(tmp_path) == []

    def test_too_little_memory_is_told_in_one_line(self, tmp_path):
        training = Training(tmp_path)

        def fail(engine):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

        training.trainer.add_event_handler(Events.ITERATION_COMPLETED, fail)
        with pytest.raises(UserError, match=r"batch_size: found too little memory .*; give a smaller --batch_size"):
            training.trainer.run()

    def test_files_that_a_training_leaves(self, tmp_path):
        (tmp_path / f".{'a' * 32}.part.pt").write_text("half, of a killed training")
        other = tmp_path / f".{'a' * 32}.part.json"
        other.write_text("of another program")
        training = Training(tmp_path).run()
        assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "checkpoint.pt", "model.pt"]
        assert same(read(tmp_path / "model.pt"), training.weights[2])  # the best by validation
        state = read(tmp_path / "checkpoint.pt")
        assert set(state) == {"network", "optimizer", "lr_scheduler", "ema", "progress"}
        assert state["progress"] == {"epoch": 6, "iteration": 24, "best_metric": 0.9, "best_metric_epoch": 2}


class TestModel:
    def test_better_after_the_break(self, tmp_path):
        Training(tmp_path).run(14)
        resumed = Training(tmp_path, scores=SCORES | {5: 0.95}).run()
        assert same(read(tmp_path / "model.pt"), resumed.weights[5])

    def test_tensors_are_as_good_as_numbers(self, tmp_path):
        scores = {epoch: torch.tensor(score) for epoch, score in SCORES.items()}
        Training(tmp_path, scores=scores).run(14)
        assert Training(tmp_path, scores=scores).run().evaluator.state.best_metric_epoch == 2

    @pytest.mark.filterwarnings("ignore:`dataloader` is empty")
    def test_last_is_there_before_the_checkpoint_says_that_all_is_done(self, tmp_path):
        class Killed(Exception):
            pass

        training = Training(tmp_path)
        training.evaluator.state.epoch_length = 0  # no case

        def die(engine):
            if engine.state.epoch == EPOCHS:
                raise Killed

        training.trainer.add_event_handler(Events.EPOCH_COMPLETED, die)
        with pytest.raises(Killed):
            training.trainer.run()
        progress = read(tmp_path / "checkpoint.pt")["progress"]
        assert (progress["epoch"], progress["best_metric_epoch"]) == (EPOCHS, -1)
        assert same(read(tmp_path / "model.pt"), training.weights[EPOCHS])

    def test_equal_weights_are_equal_files(self, tmp_path):
        training = Training(tmp_path)
        for name in ("a.pt", "b.pt"):
            ModelSaver(tmp_path / name, training.network, training.evaluator).save()
        assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


class TestKeep:
    """Which state becomes the model file."""

    @pytest.mark.parametrize(("keep", "saved"), [("best", [1, 2]), ("last", [1, 2, 3, "end"])])
    def test_best_or_last(self, tmp_path, keep, saved):
        trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
        best = {1: 1, 2: 2, 3: 2}  # epoch -> epoch of the best so far
        made = []
        saver = ModelSaver(tmp_path / "model.pt", torch.nn.Linear(1, 1), evaluator, keep)

        def save():
            made.append("end" if evaluator.state.epoch == 9 else evaluator.state.epoch)
            if keep == "best" or evaluator.state.epoch == 9:  # the last state is saved at the end if it is missing
                saver.path.touch()

        saver.save = save
        saver.attach(trainer)
        for epoch, best_epoch in best.items():
            evaluator.state.epoch, evaluator.state.best_metric_epoch = epoch, best_epoch
            evaluator.fire_event(Events.COMPLETED)
        evaluator.state.epoch = 9
        trainer.fire_event(Events.COMPLETED)
        assert made == saved

    def test_a_lost_best_state_is_one_line(self, tmp_path):
        trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
        ModelSaver(tmp_path / "model.pt", torch.nn.Linear(1, 1), evaluator, "best").attach(trainer)
        evaluator.state.best_metric_epoch = 2
        with pytest.raises(UserError, match=r"^model_file: found no .*model\.pt, which held the best state"):
            trainer.fire_event(Events.COMPLETED)


class Evil:
    """What an attacker would put into a checkpoint."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def torn(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed(change):
    """Return a function that saves something else than the state in a checkpoint."""
    return lambda path: torch.save(change(read(path)), path)


DAMAGED = "cannot be read as a checkpoint: it is damaged"
FOREIGN = "not a checkpoint of this training ("


class TestRefused:
    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (torn, DAMAGED),
            (lambda path: path.write_bytes(b""), DAMAGED),
            (lambda path: path.write_text("hello"), DAMAGED),
            (changed(lambda state: state["network"]), FOREIGN),
            (changed(lambda state: 3), FOREIGN),
            (changed(lambda state: state | {"progress": {"epoch": 3}}), FOREIGN),
            (changed(lambda state: state | {"optimizer": {}}), FOREIGN),
            (
                changed(lambda state: state | {"network": {"0.bias": torch.ones(5)}}),
                FOREIGN,
            ),
        ],
    )
    def test_damaged_or_foreign(self, tmp_path, damage, reason):
        path = tmp_path / "checkpoint.pt"
        Training(tmp_path).run(14)
        damage(path)
        before = path.read_bytes()
        with pytest.raises(UserError) as caught:
            Training(tmp_path).trainer.run()
        text = str(caught.value)
        assert text.startswith(f"{path}: {reason}")
        assert "give another output_dir, remove the file, or start again with --resume False" in text
        assert "\n" not in text
        assert path.read_bytes() == before

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_code_in_a_checkpoint_is_not_run(self, tmp_path):
        path, trap = tmp_path / "checkpoint.pt", tmp_path / "trapped"
        for save in (lambda x: torch.save(x, path), lambda x: path.write_bytes(pickle.dumps(x))):
            save({"network": Evil(trap), "progress": {}})
            with pytest.raises(UserError, match="which is refused for safety"):
                Training(tmp_path).trainer.run()
            assert not trap.exists()
        pickle.loads(path.read_bytes())
        assert trap.exists()  # the trap was a real one


class TestWhole:
    def test_old_file_stays_when_the_disk_is_full(self, tmp_path, monkeypatch):
        path = tmp_path / "a.pt"
        save_file({"a": torch.ones(3)}, path)

        def fail(content, file):
            file.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", fail)
        with pytest.raises(UserError, match=r"a\.pt: cannot be written \(No space left on device\)"):
            save_file({"a": torch.zeros(3)}, path)
        assert read(path)["a"].tolist() == [1, 1, 1]
        assert os.listdir(tmp_path) == ["a.pt"]

    def test_folder_is_made(self, tmp_path):
        save_file({}, tmp_path / "a" / "b" / "c.pt")
        assert read(tmp_path / "a" / "b" / "c.pt") == {}
