"""When labs were used last."""

from labd.features.activity.attended import AttendedConsole, AttendedScreen
from labd.features.activity.service import ActivityService

__all__ = [
    "ActivityService",
    "AttendedConsole",
    "AttendedScreen",
]
