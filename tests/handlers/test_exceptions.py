"""What ends a validation reaches the training, and nobody logs it on the way."""

import logging

import pytest
from ignite.engine import Engine
from monai.handlers import StatsHandler

from monai_pdddpm.handlers import ReraiseExceptions


@pytest.mark.parametrize("passed_on", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), RuntimeError("broken")], ids=lambda e: type(e).__name__)
def test_monai_logs_no_traceback(error, passed_on, caplog):
    def step(engine, batch):
        raise error

    validation = Engine(step)
    validation.logger.disabled = True  # ignite tells of its own
    handlers = [ReraiseExceptions(), StatsHandler(iteration_log=False, name="told")]
    for handler in handlers[0 if passed_on else 1 :]:
        handler.attach(validation)
    with caplog.at_level(logging.INFO), pytest.raises(type(error)):
        validation.run([0])
    logged = any(record.name == "told" and record.exc_info for record in caplog.records)
    assert logged != passed_on  # without it MONAI does, or this test would see nothing
