"""Classes: labs for everybody on a roster."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from pydantic import Field

from labd.api import models
from labd.api.models import Name
from labd.api.policy import PolicyDep, note
from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.classes.service import ClassController
from labd.features.classes.tokens import ClassTokens
from labd.features.classes.views import ClassView
from labd.features.leases import Extension, LeaseTerm, lease_ask
from labd.features.templates import ShippedTemplates, TemplateText
from labd.host.threads import quick
from labd.model.classes import Student
from labd.model.errors import InputError
from labd.model.names import NAME_PATTERN
from labd.model.people import Thing
from labd.model.records import Wanted
from labd.model.specs import LabSpec

router = APIRouter(prefix="/classes", tags=["classes"])

TokensDep = Annotated[ClassTokens, Depends(service(ClassTokens))]
ClassesDep = Annotated[ClassController, Depends(service(ClassController))]
TemplatesDep = Annotated[ShippedTemplates, Depends(service(ShippedTemplates))]

ClassName = Annotated[str, Path(pattern=NAME_PATTERN, description="Name of a class")]
_Value = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]


class NewStudent(models.Body):
    """A student on the roster."""

    name: str = Field(pattern=NAME_PATTERN)
    settings: dict[str, _Value] = Field(default={}, max_length=100)


class Start(models.Body):
    """Start a class, or add students to it."""

    name: str = Field(pattern=NAME_PATTERN)
    checkpoint: str = Field(
        default="", pattern=models.OPTIONAL_NAME_PATTERN, description="Or `template`"
    )
    template: TemplateText | None = Field(
        default=None, description="A first copy of it is booted and saved as checkpoint `name`"
    )
    students: list[NewStudent] = Field(min_length=1, max_length=500)
    settings: dict[str, _Value] = Field(default={}, max_length=100, description="Of all students")
    lease: LeaseTerm | None = Field(default=None, description="Of each of the labs")
    queue: bool = Field(
        default=False, description="Students for whom there is no room wait; else it is refused"
    )


class Add(models.Body):
    """Let more students take part."""

    students: list[NewStudent] = Field(min_length=1, max_length=500)


class ClassStudent(models.Wire):
    """A student of a class."""

    name: str
    lab: str
    state: str = Field(description="Of the lab; `waiting`, `failed` or `gone` where there is none")
    reason: str = Field(description="Why the lab could not be forked, or empty")


class Class(models.Wire):
    """A class."""

    name: str
    checkpoint: str
    wanted: Wanted
    created: str
    done: bool = Field(description="Every student was served, well or not")
    students: list[ClassStudent]


class Classes(models.Wire):
    """All classes by name."""

    classes: list[Class]


class StudentToken(models.Wire):
    """The token of a student of a class."""

    student: str
    lab: str
    token: str
    expires: str = Field(description="End of the lab's lease; empty where it has none")


class StudentTokens(models.Wire):
    """Tokens of a class."""

    tokens: list[StudentToken]


class HandOut(models.Body):
    """Whose tokens of a class are wanted."""

    students: list[Name] = Field(default=[], max_length=500, description="Empty: all")
    renew: bool = Field(default=False, description="Others than before, which are void then")


def _show(view: ClassView) -> Class:
    record = view.record
    return Class(
        name=record.name,
        checkpoint=record.source,
        wanted=record.wanted,
        created=record.created,
        done=record.told,
        students=[
            ClassStudent(
                name=item.name,
                lab=record.lab_of(item.name),
                state=view.states[item.name],
                reason=record.failed.get(item.name, ""),
            )
            for item in record.students
        ],
    )


@router.get("")
@requires(Scope.LABS_READ)
async def list_classes(classes: ClassesDep, policy: PolicyDep) -> Classes:
    """List the classes that the caller may see."""
    found = [view for view in await classes.all() if policy.own(view.record.owner)]
    return Classes(classes=[_show(view) for view in found])


@router.get("/{name}")
@requires(Scope.LABS_READ, about=Thing.CLASS)
async def get_class(name: ClassName, classes: ClassesDep) -> Class:
    """Return one class."""
    return _show(await classes.get(name))


@router.post("", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL)
async def start_class(
    body: Start, classes: ClassesDep, templates: TemplatesDep, policy: PolicyDep
) -> Class:
    """Fork a lab for each student; of a class that is there, for those who have none."""
    note(f"class {body.name}")
    await policy.require_free(Thing.CLASS, body.name)
    if body.checkpoint:
        await policy.require(Thing.CHECKPOINT, body.checkpoint)
    source: str | LabSpec = body.checkpoint
    if (body.template is None) is (not body.checkpoint):
        raise InputError("a class has one source: give either `checkpoint` or `template`")
    if body.template is not None:
        text = body.template
        load = templates.load
        source = await quick(load, text.text, text.file, text.settings)
    view = await classes.start(
        body.name,
        source,
        _students(body.students),
        settings=body.settings,
        lease=lease_ask(body.lease) if body.lease else None,
        queue=body.queue,
    )
    return _show(view)


def _students(items: list[NewStudent]) -> list[Student]:
    return [Student(name=item.name, settings=item.settings) for item in items]


@router.post("/{name}/students", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.CLASS)
async def add_students(name: ClassName, body: Add, classes: ClassesDep) -> Class:
    """Let more students take part; they get what the others got."""
    return _show(await classes.add(name, _students(body.students)))


@router.post("/{name}/extend")
@requires(Scope.LABS_CONTROL, about=Thing.CLASS)
async def extend_class(name: ClassName, body: Extension, classes: ClassesDep) -> Class:
    """Let the leases of all labs of a class last longer, all or none."""
    return _show(await classes.extend(name, body.seconds))


@router.post("/{name}/stop", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.CLASS)
async def stop_class(name: ClassName, classes: ClassesDep) -> Class:
    """Stop all labs of a class and keep their disks."""
    return _show(await classes.stop(name))


@router.delete("/{name}", status_code=HTTPStatus.ACCEPTED)
@requires(Scope.LABS_CONTROL, about=Thing.CLASS)
async def destroy_class(name: ClassName, classes: ClassesDep) -> Class:
    """Remove all labs of a class, and then the class."""
    return _show(await classes.destroy(name))


@router.post("/{name}/tokens")
@requires(Scope.PEOPLE_ADMIN, about=Thing.CLASS, instructor=True)
async def hand_out_tokens(
    name: ClassName, body: HandOut, tokens: TokensDep, response: Response
) -> StudentTokens:
    """Return the tokens of a class's students who have a lab; the same ones each time."""
    response.headers["Cache-Control"] = "no-store"
    found = await tokens.hand_out(name, body.students, renew=body.renew)
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
