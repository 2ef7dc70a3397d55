"""What ends a validation is told once, by the training around it."""

from __future__ import annotations

from typing import NoReturn

from ignite.engine import Engine, Events


class ReraiseExceptions:
    """Pass an exception on as it is, Ctrl-C for example.

    To be attached before MONAI's ``StatsHandler``, which would log its traceback first.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to a validation's ``engine``."""
        engine.add_event_handler(Events.EXCEPTION_RAISED, self)

    def __call__(self, engine: Engine, error: BaseException) -> NoReturn:
        """Raise what was raised.

        Raises:
            BaseException: ``error``.
        """
        raise error
