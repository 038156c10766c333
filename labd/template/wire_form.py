"""The shape of wires in a template: `impair` and `state` of links and NICs."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from labd.model.errors import InputError
from labd.model.impairment import parse


class WireState(StrEnum):
    """Whether a NIC has a carrier."""

    UP = "up"
    DOWN = "down"


def _reader(name: str) -> Callable[[object], float]:
    def read(value: object) -> float:
        # A bare number has no unit, which a percentage can do without.
        text = str(value) if isinstance(value, str | int | float) else ""
        try:
            if isinstance(value, bool):
                return parse(name, "")
            return parse(name, text)
        except InputError as error:
            raise PydanticCustomError("labd", "{message}", {"message": error.message}) from error

    return read


Rate = Annotated[
    int,
    BeforeValidator(_reader("rate")),
    WithJsonSchema({"type": "string", "examples": ["10mbit", "500kbit"]}),
]
Delay = Annotated[
    float,
    BeforeValidator(_reader("delay")),
    WithJsonSchema({"type": "string", "examples": ["20ms", "1.5s"]}),
]
Jitter = Annotated[
    float,
    BeforeValidator(_reader("jitter")),
    WithJsonSchema({"type": "string", "examples": ["5ms"]}),
]
_PERCENT = WithJsonSchema({"type": ["string", "number"], "examples": ["1%", 0.5]})
Loss = Annotated[float, BeforeValidator(_reader("loss")), _PERCENT]
Duplicate = Annotated[float, BeforeValidator(_reader("duplicate")), _PERCENT]
Corrupt = Annotated[float, BeforeValidator(_reader("corrupt")), _PERCENT]


class ImpairForm(BaseModel):
    """What happens to the frames that go one way."""

    model_config = ConfigDict(extra="forbid", strict=False, hide_input_in_errors=True)

    rate: Rate = Field(default=0, description="At most so many bits a second, like 10mbit")
    delay: Delay = Field(default=0.0, description="Each frame takes so much longer, like 20ms")
    jitter: Jitter = Field(default=0.0, description="The delay varies by so much, like 5ms")
    loss: Loss = Field(default=0.0, description="Frames that are lost, like 1%")
    duplicate: Duplicate = Field(default=0.0, description="Frames that come twice, like 1%")
    corrupt: Corrupt = Field(default=0.0, description="Frames with a bit turned over, like 1%")
