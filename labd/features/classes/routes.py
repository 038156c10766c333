"""Classes: labs for everybody on a roster."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from labd.api.callers import EngineDep, ServicesDep
from labd.api.policy import PolicyDep, note
from labd.features import models, views
from labd.features.access.views import Thing
from labd.features.classes.views import ClassView
from labd.features.leases.routes import Extension
from labd.host.threads import quick
from labd.model.classes import Student
from labd.model.errors import InputError
from labd.model.names import NAME_PATTERN
from labd.model.records import Wanted
from labd.model.specs import LabSpec

router = APIRouter(prefix="/classes", tags=["classes"])

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
    template: models.TemplateText | None = Field(
        default=None, description="A first copy of it is booted and saved as checkpoint `name`"
    )
    students: list[NewStudent] = Field(min_length=1, max_length=500)
    settings: dict[str, _Value] = Field(default={}, max_length=100, description="Of all students")
    lease: models.LeaseTerm | None = Field(default=None, description="Of each of the labs")
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
async def list_classes(engine: EngineDep, policy: PolicyDep) -> Classes:
    """List the classes that the caller may see."""
    found = [view for view in await engine.classes.all() if policy.own(view.record.owner)]
    return Classes(classes=[_show(view) for view in found])


@router.get("/{name}")
async def get_class(name: ClassName, engine: EngineDep) -> Class:
    """Return one class."""
    return _show(await engine.classes.get(name))


@router.post("", status_code=HTTPStatus.ACCEPTED)
async def start_class(body: Start, found: ServicesDep, policy: PolicyDep) -> Class:
    """Fork a lab for each student; of a class that is there, for those who have none."""
    note(f"class {body.name}")
    await policy.require_free(found.engine, Thing.CLASS, body.name)
    if body.checkpoint:
        await policy.require(found.engine, Thing.CHECKPOINT, body.checkpoint)
    source: str | LabSpec = body.checkpoint
    if (body.template is None) is (not body.checkpoint):
        raise InputError("a class has one source: give either `checkpoint` or `template`")
    if body.template is not None:
        text = body.template
        load = found.templates.load
        source = await quick(load, text.text, text.file, text.settings)
    view = await found.engine.classes.start(
        body.name,
        source,
        _students(body.students),
        settings=body.settings,
        lease=views.lease_ask(body.lease) if body.lease else None,
        queue=body.queue,
    )
    return _show(view)


def _students(items: list[NewStudent]) -> list[Student]:
    return [Student(name=item.name, settings=item.settings) for item in items]


@router.post("/{name}/students", status_code=HTTPStatus.ACCEPTED)
async def add_students(name: ClassName, body: Add, engine: EngineDep) -> Class:
    """Let more students take part; they get what the others got."""
    return _show(await engine.classes.add(name, _students(body.students)))


@router.post("/{name}/extend")
async def extend_class(name: ClassName, body: Extension, engine: EngineDep) -> Class:
    """Let the leases of all labs of a class last longer, all or none."""
    return _show(await engine.classes.extend(name, body.seconds))


@router.post("/{name}/stop", status_code=HTTPStatus.ACCEPTED)
async def stop_class(name: ClassName, engine: EngineDep) -> Class:
    """Stop all labs of a class and keep their disks."""
    return _show(await engine.classes.stop(name))


@router.delete("/{name}", status_code=HTTPStatus.ACCEPTED)
async def destroy_class(name: ClassName, engine: EngineDep) -> Class:
    """Remove all labs of a class, and then the class."""
    return _show(await engine.classes.destroy(name))
