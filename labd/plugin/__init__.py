"""What a plugin imports: hear events, act through the API, never miss one.

    from labd.plugin import Client, Event, Plugin

    plugin = Plugin()

    @plugin.on("node.crashed")
    async def crashed(event: Event, lab: Client) -> None:
        await lab.start(event.lab, event.node)

    plugin.run()

`docs/plugins.md` goes through it step by step.
"""

from labd.client import AsyncClient as Client
from labd.model.errors import LabdError as PluginError
from labd.plugin.event import Event
from labd.plugin.sdk import Plugin

__all__ = ["Client", "Event", "Plugin", "PluginError"]
