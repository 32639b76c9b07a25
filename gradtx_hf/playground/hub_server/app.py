"""The Hub as an ASGI application: routes, errors, faults, records."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from gradtx_hf.playground.hub_server import (
    account_routes,
    file_routes,
    history_routes,
    repository_routes,
    upload_routes,
)
from gradtx_hf.playground.hub_server.faults import FaultInjector
from gradtx_hf.playground.hub_server.refusal import Refusal, repository_not_found
from gradtx_hf.playground.hub_server.requests import Hub


ROUTERS = (
    account_routes.router,
    file_routes.router,
    history_routes.router,
    upload_routes.router,
    repository_routes.router,
)


def make_app(hub: Hub) -> ASGIApp:
    """Return the application that serves a Hub."""
    app = FastAPI(title="A local Hub", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.hub = hub
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(Refusal, _refuse)
    app.add_exception_handler(HTTPException, _no_route)
    return FaultInjector(app, hub.faults)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _no_route(request: Request, error: Exception) -> Response:
    """Answer a path without a route, which may be that of a repository without an owner: none is here."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return repository_not_found(is_anonymous="authorization" not in request.headers).response()
    return Refusal(error.status_code, str(error.detail)).response()
