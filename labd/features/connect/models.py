"""What goes over the wire about ways into labs."""

from __future__ import annotations

from pydantic import Field

from labd.api.models import Wire


class SshKey(Wire):
    """The SSH key pair of a lab."""

    public: str = Field(description="One line, as in authorized_keys")
    private: str = Field(description="In OpenSSH's own format")
