"""`lab inventory`."""

from __future__ import annotations

import json
import shlex

import click

from labd.cli.openssh import host_name, options
from labd.cli.session import Session, verb
from labd.cli.writing import writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.client.types import Lab


@verb("inventory")
@click.argument("lab", metavar="LAB")
@click.option("--ansible", is_flag=True, help="For Ansible; the default, and the only format.")
@click.option("-o", "--output", metavar="FILE", help="Write it to a file; name it *.yaml.")
def inventory(session: Session, lab: str, ansible: bool, output: str | None) -> None:
    """Print the nodes of a lab as an inventory for Ansible (JSON, which is YAML, too).

    The hosts are named as the nodes, and are in groups by image and by network. Ansible reaches
    them as `lab ssh` does, and needs no route. Nodes need Python for most of Ansible's modules;
    `raw` works without.
    """
    del ansible  # there is no other format
    text = json.dumps(_document(session, session.client.lab(lab)), indent=2) + "\n"
    if output is None:
        session.say(text.rstrip())
        return
    with writing(output, "--output") as file:
        file.write(text.encode())
    if session.json:
        session.emit({"file": output})
    else:
        session.say(output)


def _document(session: Session, lab: Lab) -> dict[str, object]:
    given = options(session)
    user = given.pop("User")
    words = [word for key, value in given.items() for word in ("-o", f"{key}={value}")]
    groups: dict[str, dict[str, dict[str, object]]] = {}
    for node in lab["nodes"]:
        spec = node["spec"] or {}
        names = [f"image_{spec['image']}"] if spec.get("image") else []
        names += [f"network_{nic['network']}" for nic in spec.get("nics", []) if nic["network"]]
        for name in names:
            group = groups.setdefault(name.replace("-", "_"), {"hosts": {}})
            group["hosts"][node["name"]] = {}
    return {
        "all": {
            "vars": {"ansible_user": user, "ansible_ssh_common_args": shlex.join(words)},
            "hosts": {
                node["name"]: {"ansible_host": host_name(lab["name"], node["name"])}
                for node in lab["nodes"]
            },
            "children": groups,
        }
    }
