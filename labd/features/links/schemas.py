"""What goes over HTTP of links. The impairments are those that `model.impairment` declares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from labd.api import models
from labd.features.links.views import LinkChange, LinkView
from labd.model.impairment import DECLARED, NAMES, Declared, facts
from labd.model.names import NAME_PATTERN

_NAME = NAME_PATTERN[1:-1]
TARGET = f"^{_NAME}(/{_NAME})?$"
OPTIONAL_TARGET = f"^({_NAME}(/{_NAME})?)?$"


def _description(item: Declared) -> str:
    return f"{item.help}; {item.quantity.unit}, 0 for none"


def _said(item: Declared) -> tuple[Any, Any]:
    return int if item.quantity.whole else float, Field(description=_description(item))


def _wanted(item: Declared) -> tuple[Any, Any]:
    quantity = item.quantity
    bounds: dict[str, Any] = {} if quantity.whole else {"allow_inf_nan": False}
    return (int if quantity.whole else float) | None, Field(
        default=None, ge=0, le=quantity.most, description=_description(item), **bounds
    )


if TYPE_CHECKING:
    _Impairments = models.Wire
    _Changes = models.Body
else:
    _Impairments = create_model(
        "_Impairments", __base__=models.Wire, **{item.name: _said(item) for item in DECLARED}
    )
    _Changes = create_model(
        "_Changes", __base__=models.Body, **{item.name: _wanted(item) for item in DECLARED}
    )


class Link(_Impairments):
    """How a NIC is attached, and what happens to what it sends."""

    network: str
    link: bool = Field(description="It is a link of two ends")
    node: str
    nic: str
    to: list[str] = Field(description="`NODE/NIC` of the others in the network")
    down: bool = Field(description="It has no carrier")
    changed: bool = Field(description="By a request, over what the template says")


class Links(models.Wire):
    """Links of a lab."""

    links: list[Link]


class LinksAsWires(models.Wire):
    """Links of a lab, by the name that they had before."""

    wires: list[Link]


class SetLinks(_Changes):
    """What to change; what is left out stays as it is."""

    target: str = Field(
        pattern=TARGET, description="A link or network, or `NODE/NIC`: what that NIC sends"
    )
    sender: str = Field(
        default="",
        pattern=OPTIONAL_TARGET,
        description="`NODE` or `NODE/NIC` in the target whose frames are meant; empty: all",
    )
    down: bool | None = Field(default=None, description="Take the carrier away, or give it back")

    def change(self) -> LinkChange:
        """Return what is asked for."""
        given = {name: value for name in NAMES if (value := getattr(self, name)) is not None}
        return LinkChange(target=self.target, sender=self.sender, down=self.down, fields=given)


def to_links(views: Sequence[LinkView]) -> list[Link]:
    """Return the entries of an answer."""
    made = []
    for view in views:
        said: dict[str, Any] = {
            "network": view.network,
            "link": view.link,
            "node": view.node,
            "nic": view.nic,
            "to": list(view.to),
            "down": view.down,
            "changed": view.changed,
            **facts(view.sends),
        }
        made.append(Link(**said))
    return made
