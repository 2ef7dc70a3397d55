"""Checks of requests that MONAI Label does not make, and user errors as answers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import MONAILabelException

from monai_pdddpm.utils.errors import user_message

__all__ = ["SameOrigin", "answer_user_errors", "plain_names_only"]


@contextlib.contextmanager
def answer_user_errors() -> Iterator[None]:
    """Answer an error that the user can fix with status 400 and its message, instead of status 500."""
    try:
        yield
    except MONAILabelException as error:
        raise HTTPException(status_code=400, detail=error.msg) from error
    except Exception as error:
        if message := user_message(error):
            raise HTTPException(status_code=400, detail=message) from error
        raise


def plain_names_only(write: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse names with folders in a method that writes; MONAI Label would follow ``../`` out of the studies."""

    @functools.wraps(write)
    def checked(image_id: str, file: str, tag_or_info: Any, *others: Any) -> Any:
        for key, found in (("image", image_id), ("tag", tag_or_info)):
            if isinstance(found, str) and (found != Path(found).name or found == ".."):
                message = f"{key}: found {found!r}, expected a name without folders; rename it"
                raise HTTPException(status_code=400, detail=message)
        return write(image_id, file, tag_or_info, *others)

    return checked


class SameOrigin:
    """ASGI middleware that refuses requests which a browser sends for the page of another site.

    Args:
        app: the ASGI application behind it.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        """Pass a request on, or answer it with status 403."""
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")
        if scope["type"] == "http" and origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            found = origin.decode("latin-1")
            message = f"Origin: found {found!r}, expected the address of this server; send requests from its own pages"
            await JSONResponse({"detail": message}, status_code=403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
