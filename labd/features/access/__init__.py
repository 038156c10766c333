"""Who may do what: owners and tokens."""

from labd.features.access.service import put_token
from labd.features.access.tokens import class_token, derived, stamp
from labd.features.access.views import NewToken

__all__ = [
    "NewToken",
    "class_token",
    "derived",
    "put_token",
    "stamp",
]
