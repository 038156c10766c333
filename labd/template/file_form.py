"""The shape of `files` of a node: what the guest agent writes."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from labd.template.keys import Form, key

_PATH = re.compile(r"/(?:[^/\x00-\x1f\x7f]+/)*[^/\x00-\x1f\x7f]+\Z")
_PATH_SCHEMA = {
    "type": "string",
    "pattern": r"^/([^/\u0000-\u001f\u007f]+/)*[^/\u0000-\u001f\u007f]+$",
    "maxLength": 1024,
}
_MODE = re.compile(r"[0-7]{3,4}\Z")
_CONTENT_LIMIT = 64 << 10  # characters


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("labd", "{message}", {"message": message})


def _path(value: object) -> object:
    if not isinstance(value, str) or len(value) > 1024 or not _PATH.match(value):
        raise _wrong(f"'{str(value)[:64]}' is no path of a file; write it like /etc/motd")
    return value


def _mode(value: object) -> object:
    if not isinstance(value, str) or not _MODE.match(value):
        raise _wrong('write a mode in quotes, like "0755"')
    return value


def _content(value: object) -> object:
    if not isinstance(value, str) or "\0" in value:
        raise _wrong("write text; put it in quotes when YAML takes it for something else")
    if len(value) > _CONTENT_LIMIT:
        raise _wrong(f"has at most {_CONTENT_LIMIT >> 10} Ki characters; use an image for more")
    return value


GuestPath = Annotated[str, BeforeValidator(_path), WithJsonSchema(_PATH_SCHEMA)]


class FileForm(Form):
    """A file in the guest."""

    content: Annotated[
        str,
        BeforeValidator(_content),
        WithJsonSchema({"type": "string", "maxLength": _CONTENT_LIMIT}),
    ] = key("Text, written as UTF-8", default="")
    mode: Annotated[
        str,
        BeforeValidator(_mode),
        WithJsonSchema({"type": "string", "pattern": "^[0-7]{3,4}$"}),
    ] = key('Permissions, in quotes: "0755"', default="", shown="as the guest makes it")
