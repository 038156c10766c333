"""`cloud_init` of nodes: what is said to cloud-init is read here, so that a guest need not fail."""

from __future__ import annotations

import json
from typing import Any, Final

from labd.model.specs import CloudInitSpec
from labd.template.complaints import Complaints
from labd.template.document import Path, Place, Problems, parse
from labd.template.form import NodeForm
from labd.template.node_parts import CloudInitForm

_HEADER: Final = "#cloud-config"
# Other forms of user-data that cloud-init knows, by how they begin.
_FOREIGN: Final = ("#!", "#include", "#cloud-boothook", "#part-handler", "## template:", "Content-")
# Lists that labd adds to; see `labd.model.cloudinit`.
_LISTS: Final = ("ssh_authorized_keys", "users", "write_files", "bootcmd", "runcmd")


class FirstBoot:
    """Checks the entries of all nodes of a lab."""

    def __init__(self, complaints: Complaints) -> None:
        self._complaints = complaints

    def of(self, node: str, form: NodeForm, path: Path) -> CloudInitSpec | None:
        """Return what a node tells cloud-init; what is wrong is told."""
        if form.cloud_init is None:
            return None
        told, path = form.cloud_init, (*path, "cloud_init")
        where = f"node {node}, cloud_init"
        config = self._user_data(where, told, (*path, "user_data"))
        for key in _LISTS:
            if not isinstance(config.get(key, []), list):
                self._complaints.wrong(
                    f"{where}, user_data: {key} must be a list; labd adds to it",
                    (*path, "user_data", key),
                    key=True,
                )
        network = told.network_config
        if network is not None and network.get("version") not in (1, 2):
            self._complaints.wrong(
                f"{where}, network_config: needs 'version: 1' or 'version: 2', without a key "
                "network around it",
                (*path, "network_config"),
                key=True,
            )
        return CloudInitSpec(
            user_data=_text(config),
            meta_data=_text(told.meta_data),
            network_config=_text(network) if network is not None else "",
        )

    def _user_data(self, where: str, told: CloudInitForm, path: Path) -> dict[str, Any]:
        if isinstance(told.user_data, dict):
            return told.user_data
        where = f"{where}, user_data"
        if told.user_data.startswith(_FOREIGN):
            self._complaints.wrong(
                f"{where}: must be {_HEADER}, which is a mapping in YAML; put a script under "
                "runcmd: or write_files:",
                path,
            )
            return {}
        problems = Problems("")
        document, root = parse(told.user_data, problems, "user_data", legacy=True)
        if not problems and root is not None and not isinstance(root, dict):
            problems.add("write a mapping, like {packages: [git]}", document.place(()))
        for problem in problems:
            place = self._place(path, (problem.line, problem.column))
            self._complaints.add(f"{where}: {problem.message}", path, place)
        return root if isinstance(root, dict) and not problems else {}

    def _place(self, path: Path, inside: Place) -> Place:
        """Return where in the template a place in the text of user-data is."""
        document = self._complaints.document
        begin = document.blocks.get(document.original(path))
        if begin is None:
            return document.place(path)
        return begin[0] + inside[0] - 1, begin[1] + inside[1] - 1


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if value else ""
