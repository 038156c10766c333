"""What gives access to the guests of a lab."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """The SSH key of a lab; every node that labd configures takes it for root.

    Attributes:
        public: One line, as in authorized_keys.
        private: In OpenSSH's own format.
    """

    public: str
    private: str
