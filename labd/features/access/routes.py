"""Tokens of people."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from pydantic import Field

from labd.api import models
from labd.api.models import Name
from labd.api.policy import note
from labd.api.rules import NOBODYS, Scope, requires
from labd.api.services import service
from labd.features.access.service import Access
from labd.features.access.views import NewToken
from labd.model.names import NAME_PATTERN
from labd.model.people import Role, TokenRecord

router = APIRouter(tags=["tokens"])

AccessDep = Annotated[Access, Depends(service(Access))]

_NAME = NAME_PATTERN[1:-1]
TokenName = Annotated[
    str,
    Path(pattern=f"^{_NAME}(\\.{_NAME})?$", description="Name, or CLASS.STUDENT of a class"),
]


class CreateToken(models.Body):
    """A token to make."""

    name: Name
    role: Role = Field(strict=False, description="administrator, instructor or student")
    labs: list[Name] = Field(default=[], max_length=500, description="Of a student")
    seconds: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Until it expires; null: never"
    )


class Token(models.Wire):
    """What is kept of a token."""

    name: str
    role: Role
    labs: list[str] = Field(description="Of a student")
    group: str = Field(description="The class whose student it is for, or empty")
    created: str
    expires: str = Field(description="Empty: never")


class MadeToken(Token):
    """A token, whole; it is shown this once."""

    token: str


class Tokens(models.Wire):
    """Tokens by name."""

    tokens: list[Token]


def _show(record: TokenRecord) -> Token:
    return Token(
        name=record.name,
        role=record.role,
        labs=[lab.name for lab in record.labs],
        group=record.group,
        created=record.created,
        expires=record.expires,
    )


def _whole(made: NewToken) -> MadeToken:
    return MadeToken(**_show(made.record).model_dump(), token=made.token)


@router.get("/tokens")
@requires(Scope.PEOPLE_ADMIN)
async def list_tokens(access: AccessDep) -> Tokens:
    """List the tokens of people; of none the token itself."""
    return Tokens(tokens=[_show(item) for item in await access.all()])


@router.post("/tokens", status_code=HTTPStatus.CREATED)
@requires(Scope.PEOPLE_ADMIN)
async def create_token(body: CreateToken, access: AccessDep, response: Response) -> MadeToken:
    """Make a token. The answer is the only time that it is shown."""
    note(f"token {body.name}")
    response.headers["Cache-Control"] = "no-store"
    return _whole(await access.create(body.name, body.role, body.labs, body.seconds))


@router.delete("/tokens/{token}", status_code=HTTPStatus.NO_CONTENT)
@requires(Scope.PEOPLE_ADMIN, about=NOBODYS)
async def revoke_token(token: TokenName, access: AccessDep) -> None:
    """Make a token void; what is open by it is closed within seconds."""
    note(f"token {token}")
    await access.revoke(token)
