"""Tokens of people."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import Field

from labd.api.callers import EngineDep
from labd.api.policy import note
from labd.features import models
from labd.features.access.views import NewToken
from labd.features.classes.routes import ClassName
from labd.model.names import NAME_PATTERN
from labd.model.people import Role, TokenRecord

router = APIRouter(tags=["tokens"])

_NAME = NAME_PATTERN[1:-1]
TokenName = Annotated[
    str,
    Path(pattern=f"^{_NAME}(\\.{_NAME})?$", description="Name, or CLASS.STUDENT of a class"),
]


class CreateToken(models.Body):
    """A token to make."""

    name: models.Name
    role: Role = Field(strict=False, description="administrator, instructor or student")
    labs: list[models.Name] = Field(default=[], max_length=500, description="Of a student")
    seconds: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Until it expires; null: never"
    )


class HandOut(models.Body):
    """Whose tokens of a class are wanted."""

    students: list[models.Name] = Field(default=[], max_length=500, description="Empty: all")
    renew: bool = Field(default=False, description="Others than before, which are void then")


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


class StudentToken(models.Wire):
    """The token of a student of a class."""

    student: str
    lab: str
    token: str
    expires: str = Field(description="End of the lab's lease; empty where it has none")


class Tokens(models.Wire):
    """Tokens by name."""

    tokens: list[Token]


class StudentTokens(models.Wire):
    """Tokens of a class."""

    tokens: list[StudentToken]


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
async def list_tokens(engine: EngineDep) -> Tokens:
    """List the tokens of people; of none the token itself."""
    return Tokens(tokens=[_show(item) for item in await engine.access.all()])


@router.post("/tokens", status_code=HTTPStatus.CREATED)
async def create_token(body: CreateToken, engine: EngineDep, response: Response) -> MadeToken:
    """Make a token. The answer is the only time that it is shown."""
    note(f"token {body.name}")
    response.headers["Cache-Control"] = "no-store"
    return _whole(await engine.access.create(body.name, body.role, body.labs, body.seconds))


@router.delete("/tokens/{token}", status_code=HTTPStatus.NO_CONTENT)
async def revoke_token(token: TokenName, engine: EngineDep) -> None:
    """Make a token void; what is open by it is closed within seconds."""
    note(f"token {token}")
    await engine.access.revoke(token)


@router.post("/classes/{name}/tokens")
async def hand_out_tokens(
    name: ClassName, body: HandOut, engine: EngineDep, response: Response
) -> StudentTokens:
    """Return the tokens of a class's students who have a lab; the same ones each time."""
    response.headers["Cache-Control"] = "no-store"
    found = await engine.access.hand_out(name, body.students, renew=body.renew)
    return StudentTokens(
        tokens=[
            StudentToken(
                student=item.student,
                lab=item.record.labs[0].name,
                token=item.token,
                expires=item.expires,
            )
            for item in found
        ]
    )
