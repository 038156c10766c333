"""Links: the NICs at their ends, and what `impair` and `state` of links and NICs come to."""

from __future__ import annotations

from dataclasses import dataclass

from labd.model.errors import InputError
from labd.model.impairment import NAMES, Impairment, check
from labd.model.names import did_you_mean, is_name
from labd.template.complaints import Complaints
from labd.template.document import Path
from labd.template.form import MAX_NICS, LabForm
from labd.template.link_form import ImpairForm, LinkState
from labd.template.node_parts import NicForm


@dataclass(frozen=True, slots=True)
class Links:
    """The links of one template, and what its NICs say as links do."""

    form: LabForm
    complaints: Complaints

    def _wrong(self, message: str, path: Path, *, key: bool = False) -> None:
        self.complaints.wrong(message, path, key=key)

    def give_ends(self) -> None:
        """Give each node the NICs at the ends of links."""
        for name, link in self.form.links.items():
            path: Path = ("links", name, "ends")
            if len(link.ends) != 2:
                self._wrong(f"link {name}: has exactly two ends, not {len(link.ends)}", path)
                continue
            if link.ends[0] == link.ends[1]:
                self._wrong(f"link {name}: both ends are {link.ends[0][:64]}; name two", path)
                continue
            for index, end in enumerate(link.ends):
                self._give_end(name, end, (*path, index))
            self._refuse_third_ends(name, link.ends)

    def _give_end(self, link: str, end: str, path: Path) -> None:
        node, _, nic = end.partition(":")
        if not is_name(nic):
            self._wrong(f"link {link}: end '{end[:64]}' must be NODE:NIC, like router:eth1", path)
            return
        form = self.form.nodes.get(node)
        if form is None:
            near = did_you_mean(node, self.form.nodes)
            self._wrong(f"link {link}: there is no node '{node[:64]}'{near}", path)
            return
        there = form.nics.setdefault(nic, NicForm(network=link))
        if there.network is None:
            there.network = link
        elif there.network != link:
            self._wrong(f"link {link}: {end} is in network {there.network} already", path)
        if len(form.nics) > MAX_NICS:
            self._wrong(f"link {link}: node {node} has more than {MAX_NICS} nics then", path)

    def _refuse_third_ends(self, link: str, ends: list[str]) -> None:
        for node, form in self.form.nodes.items():
            for nic, nic_form in form.nics.items():
                if nic_form.network == link and f"{node}:{nic}" not in ends:
                    self._wrong(
                        f"node {node}, nic {nic}: link {link} ends at {' and '.join(ends)}; use a "
                        "network for more than two",
                        ("nodes", node, "nics", nic, "network"),
                    )

    def check_links(self) -> None:
        """Check what links say."""
        for name, link in self.form.links.items():
            if link.impair is not None:
                self._impairment(f"link {name}", link.impair, ("links", name, "impair"))

    def nic(self, where: str, form: NicForm, path: Path) -> tuple[bool, Impairment]:
        """Return whether a NIC is down, and what happens to what it sends.

        A link says it for both of its ends.
        """
        link = self.form.links.get(form.network or "")
        impair, state = form.impair, form.state
        if link is not None:
            for key, own, whole in (("impair", impair, link.impair), ("state", state, link.state)):
                if own is not None and whole is not None:
                    self._wrong(
                        f"{where}: link {form.network} has {key} for both ends; keep one",
                        (*path, key),
                        key=True,
                    )
        sends = Impairment()
        if impair is not None:
            sends = self._impairment(where, impair, (*path, "impair"))
        elif link is not None and link.impair is not None:
            sends = _of(link.impair)
        state = state or (link.state if link is not None else None)
        return state is LinkState.DOWN, sends

    def _impairment(self, where: str, form: ImpairForm, path: Path) -> Impairment:
        found = _of(form)
        try:
            check(found)
        except InputError as error:
            self._wrong(f"{where}: {error.message}", path)
        return found


def _of(form: ImpairForm) -> Impairment:
    return Impairment(**{name: getattr(form, name) for name in NAMES})
