"""Labs: up, down, edits, and the machines that they run."""

from labd.features.labs.converge import Converger
from labd.features.labs.diff import plan_changes
from labd.features.labs.handlers import OperationHandlers
from labd.features.labs.overview import LabOverview
from labd.features.labs.runner import NodeRunner
from labd.features.labs.schemas import Node, bare_spec, show_node
from labd.features.labs.service import Labs
from labd.features.labs.teardown import Teardown
from labd.features.labs.watch import Watcher

__all__ = [
    "Converger",
    "LabOverview",
    "Labs",
    "Node",
    "NodeRunner",
    "OperationHandlers",
    "Teardown",
    "Watcher",
    "bare_spec",
    "plan_changes",
    "show_node",
]
