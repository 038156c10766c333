"""`impair` and `state` of links and NICs: whether they fit, and what each NIC gets of them."""

from __future__ import annotations

from dataclasses import dataclass

from labd.model.errors import InputError
from labd.model.impairment import NAMES, Impairment, check
from labd.template.complaints import Complaints
from labd.template.document import Path
from labd.template.form import LabForm, NicForm
from labd.template.link_form import ImpairForm, LinkState


@dataclass(frozen=True, slots=True)
class Links:
    """The links of one template, and what its NICs say as links do."""

    form: LabForm
    complaints: Complaints

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
                    self.complaints.wrong(
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
            self.complaints.wrong(f"{where}: {error.message}", path)
        return found


def _of(form: ImpairForm) -> Impairment:
    return Impairment(**{name: getattr(form, name) for name in NAMES})
