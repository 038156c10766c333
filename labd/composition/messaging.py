"""Events on their way out: the broker, its users, the publisher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from labd.composition.settings import Settings
from labd.composition.sockets import write_secret
from labd.events.accounts import BrokerUser, new_password
from labd.events.broker import ManagedBroker
from labd.events.messages import Topics
from labd.events.mqtt import BrokerAddress
from labd.events.outbox import OutboxGuard, OutboxLimits
from labd.events.publisher import Publisher
from labd.features.plugins.supervisor import Supervisor, SupervisorConfig
from labd.host.doctor import Finding
from labd.host.paths import shipped
from labd.host.supervision import TaskSupervisor, Work, cancel_all
from labd.host.threads import quick
from labd.inventory import SqliteInventory

_READER = "reader"  # the broker's user for people
_CANCEL_AGAIN = 3.0  # seconds that a background task has for its farewell
_FLUSH = 2.0  # seconds that the last events have to reach the broker


class Messaging:
    """The broker, who may use it, and the publisher that drains the outbox to it."""

    def __init__(
        self, settings: Settings, inventory: SqliteInventory, host_id: str, tasks: TaskSupervisor
    ) -> None:
        self._tasks = tasks
        self._paths = settings.paths
        self._config = settings.config
        self._inventory = inventory
        self._host_id = host_id
        self._reader = new_password()
        self._broker: ManagedBroker | None = None
        self._publisher: Publisher | None = None
        kept = settings.config.broker
        self._outbox = OutboxGuard(
            inventory, OutboxLimits(events=kept.outbox_events, age=kept.outbox_days * 86_400.0)
        )

    async def start(self, group: int | None, stack: AsyncExitStack) -> BrokerAddress:
        """Start the managed broker, or return where the external one is."""
        broker = self._config.broker
        if broker.mode == "external":
            password = ""
            if broker.password_file is not None:
                password = (await quick(broker.password_file.read_text)).strip()
            return BrokerAddress.parse(
                broker.url,
                username=broker.username,
                password=password,
                ca_file=broker.ca_file,
            )
        managed = ManagedBroker(self._paths.broker_run, tcp_port=broker.tcp_port, tasks=self._tasks)
        await managed.start()
        stack.push_async_callback(managed.stop)
        background(self._tasks, "broker", managed.run, stack)
        self._broker = managed
        await managed.set_users(self._people())
        write_secret(self._paths.broker_password, self._reader, group)
        return managed.address

    def _people(self) -> list[BrokerUser]:
        """Return the broker's user for people, who may read everything of this host."""
        everything = Topics(self._host_id).all
        return [BrokerUser(name=_READER, password=self._reader, reads=(everything,))]

    def plugin_runner(self, broker: BrokerAddress) -> Supervisor:
        """Return the supervisor of plugins, whose users the broker knows."""
        managed = self._broker

        async def set_users(plugins: Sequence[BrokerUser]) -> None:
            if managed is not None:
                await managed.set_users([*self._people(), *plugins])

        return Supervisor(
            SupervisorConfig(
                folders=(*self._config.plugins.dirs, shipped("plugins")),
                state=self._paths.plugins,
                socket=self._paths.plugin_socket,
                host_id=self._host_id,
                broker=managed.plugin_address if managed is not None else broker,
                set_users=set_users if managed is not None else None,
                tasks=self._tasks,
            )
        )

    def publish(self, broker: BrokerAddress, stack: AsyncExitStack) -> None:
        """Publish events from now on, until the stack is unwound."""
        publisher = Publisher(self._inventory, broker, self._host_id)
        self._publisher = publisher
        background(self._tasks, "outbox", self._outbox.run, stack)
        background(self._tasks, "publisher", publisher.run, stack)
        # Pushed last, so done first: what the stop itself told still goes out.
        stack.push_async_callback(publisher.flush, _FLUSH)

    def finding(self) -> Finding:
        """Return what the doctor says of the outbox."""
        return self._outbox.finding()

    def info(self) -> Mapping[str, object]:
        """Return where the broker is, and how the publisher is."""
        broker: dict[str, object] = {"mode": self._config.broker.mode}
        if self._broker is not None:
            broker |= {
                "host": self._broker.plugin_address.host,
                "port": self._broker.port,
                "username": _READER,
                "password_file": str(self._paths.broker_password),
            }
        else:
            broker["url"] = self._config.broker.url
        if self._publisher is not None:
            broker |= {
                "connected": self._publisher.connected,
                "problem": self._publisher.problem,
            }
        return broker


def background(tasks: TaskSupervisor, name: str, work: Work, stack: AsyncExitStack) -> None:
    """Run a loop until the stack is unwound."""
    stack.push_async_callback(cancel_all, [tasks.supervise(name, work)], _CANCEL_AGAIN)
