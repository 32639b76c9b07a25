"""Routes that are about no repository: who am I, is this card valid, faults."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.playground.hub_server.card import check_card, read_metadata
from gradtx_hf.playground.hub_server.faults import FaultKind
from gradtx_hf.playground.hub_server.refusal import Refusal
from gradtx_hf.playground.hub_server.requests import CurrentHub, KnownUser


router = APIRouter()


class CardText(BaseModel):
    """A card that is going to be uploaded."""

    content: str


class FaultRequest(BaseModel):
    """A fault to add; see ``faults.Fault``."""

    kinds: list[FaultKind]
    method: str = "*"
    path: str = "*"
    times: int | None = None
    probability: float = 1.0
    seed: int = 0
    seconds: float = 0.0


@router.get("/api/whoami-v2")
async def whoami(hub: CurrentHub, user: KnownUser) -> dict[str, Any]:
    """Return the user of a token."""
    organizations = hub.accounts.organizations_of(user)
    return {
        "type": "user",
        "id": user,
        "name": user,
        "fullname": user,
        "isPro": False,
        "orgs": [{"type": "org", "id": name, "name": name, "fullname": name} for name in organizations],
        "auth": {"type": "access_token", "accessToken": {"displayName": "playground", "role": "write"}},
    }


@router.post("/api/validate-yaml")
async def validate_yaml(card: CardText) -> dict[str, Any]:
    """Say whether a card would be taken."""
    check_card(card.content.encode())
    warnings = [] if read_metadata(card.content) else [{"message": "empty or missing yaml metadata in repo card"}]
    return {"errors": [], "warnings": warnings}


@router.post("/playground/faults")
async def add_fault(fault: FaultRequest, hub: CurrentHub, user: KnownUser) -> dict[str, int]:
    """Let requests fail from now on."""
    try:
        hub.faults.add(*fault.kinds, **fault.model_dump(exclude={"kinds"}))
    except ConfigurationError as error:
        raise Refusal(400, str(error)) from error
    return {"faults": len(list(hub.faults))}


@router.delete("/playground/faults")
async def clear_faults(hub: CurrentHub, user: KnownUser) -> dict[str, int]:
    """Let nothing fail any more."""
    hub.faults.clear()
    return {"faults": 0}
