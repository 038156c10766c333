"""Operations as the API shows them."""

from labd.features.operations.schemas import Operation, Operations, accepted, show_operation

__all__ = [
    "Operation",
    "Operations",
    "accepted",
    "show_operation",
]
