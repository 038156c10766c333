"""The shape of `impair` and `state` of links and NICs. The impairments are `model.impairment`'s."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema, create_model
from pydantic_core import PydanticCustomError

from labd.model.errors import InputError
from labd.model.impairment import DECLARED, Declared, parse
from labd.template.keys import Form, key


class LinkState(StrEnum):
    """Whether a NIC has a carrier."""

    UP = "up"
    DOWN = "down"


def _reader(name: str) -> Callable[[object], float]:
    def read(value: object) -> float:
        # A bare number has no unit, which a percentage can do without; and zero is nothing.
        text = str(value) if isinstance(value, str | int | float) else ""
        if isinstance(value, bool):
            text = ""
        elif isinstance(value, int | float) and value == 0:
            text = "0"
        try:
            return parse(name, text)
        except InputError as error:
            raise PydanticCustomError("labd", "{message}", {"message": error.message}) from error

    return read


def _written(item: Declared) -> dict[str, Any]:
    """Return the JSON Schema of what `_reader` takes."""
    quantity = item.quantity
    number = {"minimum": 0, "maximum": quantity.most} if quantity.bare else {"enum": [0]}
    return {
        "anyOf": [
            {"type": "string", "pattern": quantity.pattern, "examples": [item.example]},
            {"type": "number", **number},
        ]
    }


def _field(item: Declared) -> tuple[Any, Any]:
    how = (BeforeValidator(_reader(item.name)), WithJsonSchema(_written(item)))
    read: Any = Annotated[int, *how] if item.quantity.whole else Annotated[float, *how]
    zero = 0 if item.quantity.whole else 0.0
    return read, key(f"{item.help}, like {item.example}", default=zero)


if TYPE_CHECKING:
    _Impairments = Form
else:
    _Impairments = create_model(
        "_Impairments", __base__=Form, **{item.name: _field(item) for item in DECLARED}
    )


class ImpairForm(_Impairments):
    """What happens to the frames that go one way."""
