"""`depends_on` of nodes: whether what is waited for is there, and nobody waits for itself."""

from __future__ import annotations

import graphlib
from collections.abc import Iterator
from dataclasses import dataclass

from labd.model.names import did_you_mean
from labd.model.specs import Dependency
from labd.template.complaints import Complaints
from labd.template.document import Path
from labd.template.form import LabForm, NodeForm


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The dependencies of one template."""

    form: LabForm
    complaints: Complaints

    def _wrong(self, message: str, path: Path, *, key: bool = False) -> None:
        self.complaints.wrong(message, path, key=key)

    def of(self, name: str, form: NodeForm, path: Path) -> Iterator[Dependency]:
        """Yield what a node waits for."""
        for other, condition in form.depends_on.items():
            where: Path = (*path, "depends_on", other)
            if other == name:
                self._wrong(f"node {name}: depends on itself; take that out", where, key=True)
            elif other not in self.form.nodes:
                near = did_you_mean(other, self.form.nodes)
                self._wrong(
                    f"node {name}: depends on '{other}', and there is no such node{near}",
                    where,
                    key=True,
                )
            else:
                yield Dependency(node=other, condition=condition)

    def check_cycles(self) -> None:
        """Tell one cycle of dependencies by its members; each depends on the next."""
        nodes = self.form.nodes
        graph = {
            name: [other for other in form.depends_on if other != name and other in nodes]
            for name, form in nodes.items()
        }
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            # Its list goes from what is needed to who needs it.
            cycle: list[str] = list(reversed(error.args[1]))
            self._wrong(
                f"node {cycle[0]}: waits for itself: {' -> '.join(cycle)}; take one out",
                ("nodes", cycle[0], "depends_on"),
                key=True,
            )
