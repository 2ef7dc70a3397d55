"""Checks of requests that MONAI Label does not make, and errors as one line."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import MONAILabelException

from monai_pdddpm.utils.errors import UserError, printable, user_message


def answer_errors(server: FastAPI) -> None:
    """Answer each error with one line: status 400 if the client can fix it, else 500; refuse other sites' requests."""
    for kind in (UserError, MONAILabelException, json.JSONDecodeError, Exception):
        server.add_exception_handler(kind, _answer)
    server.middleware_stack = SameOrigin(server.build_middleware_stack())


def _answer(_: Any, error: Exception) -> JSONResponse:
    message = error.msg if isinstance(error, (MONAILabelException, json.JSONDecodeError)) else user_message(error)
    if message is not None:
        return JSONResponse({"detail": message}, status_code=400)
    text = printable(" ".join(str(error).split()))
    return JSONResponse({"detail": f"{type(error).__name__}: {text}; the log has the details"}, status_code=500)


def plain_names_only(write: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse names with folders in a method that writes; MONAI Label would follow ``../`` out of the studies."""

    @functools.wraps(write)
    def checked(image_id: str, file: str, tag_or_info: Any, *others: Any) -> Any:
        for key, found in (("image", image_id), ("tag", tag_or_info)):
            name = str.__str__(found) if isinstance(found, str) else ""  # MONAI Label's own tags are an enumeration
            if name != Path(name).name or name == "..":
                raise UserError(f"{key}: found {name!r}, expected a name without folders; rename it")
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
