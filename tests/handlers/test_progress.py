"""Bars are for terminals alone, and MONAI's tracking finds the loss of a trainer that does not split its batches."""

import io
import logging
import sys

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from monai.engines import SupervisedTrainer
from monai.handlers import from_engine

from monai_pdddpm.handlers import CaseProgress, Progress, TrackedLoss


class Terminal(io.StringIO):
    def __init__(self, there):
        super().__init__()
        self.there = there

    def isatty(self):
        return self.there


@pytest.mark.parametrize("there", [True, False])
def test_cases_have_a_bar_with_the_time_left_in_a_terminal_alone(monkeypatch, there):
    terminal = Terminal(there)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # a handler of another test may have a closed stream
    engine = Engine(lambda engine, batch: [])
    CaseProgress().attach(engine)
    engine.run(range(3))

    text = terminal.getvalue()

    assert ("cases" in text) == there
    assert ("[3/3]" in text) == there
    assert ("<00:00" in text) == there  # what is left


def test_tracking_finds_the_loss():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 3.0)
    seen = []
    # the very expression of `--tracking mlflow`, on an engine's output
    expression = DEFAULT_MLFLOW_SETTINGS["configs"]["trainer"]["output_transform"]
    assert expression == "$monai.handlers.from_engine(['loss'], first=True)"

    class Tracking:
        def attach(self, engine):
            loss = from_engine(["loss"], first=True)
            engine.add_event_handler(
                Events.ITERATION_COMPLETED, lambda engine: seen.append(loss(engine.state.output).item())
            )

    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(2, 1), "label": torch.zeros(2, 1)}] * 2,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=torch.nn.functional.mse_loss,
        train_handlers=[Progress(), TrackedLoss(), Tracking()],
        decollate=False,
    )
    trainer.run()

    assert seen == [9.0, 9.0]


def test_time_left_is_that_of_the_remaining_epochs(monkeypatch, capsys):
    clock = iter([0.0, 600.0, 1200.0, 1800.0])
    monkeypatch.setattr("monai_pdddpm.handlers.progress.time.monotonic", lambda: next(clock))
    progress, engine = Progress(), Engine(lambda engine, batch: None)
    engine.add_event_handler(Events.STARTED, progress.begin)
    engine.add_event_handler(Events.EPOCH_COMPLETED, progress.print_time_left)
    engine.run([1], max_epochs=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "epoch 1 of 3: about 20 minutes left",
        "epoch 2 of 3: about 10 minutes left",
        "epoch 3 of 3: about 0 minutes left",
    ]
