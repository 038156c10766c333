"""A nemesis of labd: many requests, many faults, and a proof afterwards that nothing was lost.

    bench/nemesis.py [--seed S] [--minutes M] [--pace P]

The seed says which requests and faults come, and when. What is proved: no event is missing, their
order is kept, the state that the API lists is the fold of all events, nothing leaks, and no machine
has ended that nobody ended. The exit status is 1 when any of it is wrong; the last lines say what,
and how to repeat it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.chaos import check, finale
from bench.chaos.clients import Clients
from bench.chaos.daemon import ChaosDaemon, small_disk_daemon
from bench.chaos.faults import Faults
from bench.chaos.history import Heard, Subscriber, listed, replay
from bench.chaos.plan import CLIENTS, Act, Fault, acts, faults
from labd.client.client import Client
from labd.model.errors import LabdError
from tests.system.harness import until

OUT = Path(__file__).resolve().parent / "out"
_QUIET_WITHIN = 180.0  # seconds until nothing is under way any more


@dataclass(slots=True)
class Report:
    """What was done, and what is wrong."""

    seed: int
    minutes: float
    pace: float = 1.0
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    events: int = 0
    operations: int = 0
    heard: int = 0
    kills: int = 0
    problems: list[str] = field(default_factory=list)
    replay: Heard = field(default_factory=list)

    def text(self) -> str:
        """Return it for people."""
        ok = sum(n for (_, code), n in self.answers.items() if code == "ok")
        first = (
            f"seed {self.seed}, {self.minutes:g} min: {self.answers.total()} requests ({ok} done), "
            f"{self.operations} operations, {self.faults.total()} faults, {self.kills} QEMUs "
            f"killed, {self.events} events, {self.heard} heard; problems: {len(self.problems)}"
        )
        lines = [
            first,
            "answers: " + ", ".join(f"{n} {code}" for code, n in _by_code(self.answers)),
            "faults: " + ", ".join(f"{n} {kind}" for kind, n in sorted(self.faults.items())),
            *self.problems[:40],
        ]
        if self.problems:
            how = f"--seed {self.seed} --minutes {self.minutes:g} --pace {self.pace:g}"
            lines.append(f"again: .venv/bin/python bench/nemesis.py {how}")
        return "\n".join(lines)


def _by_code(answers: Counter[tuple[str, str]]) -> list[tuple[str, int]]:
    codes: Counter[str] = Counter()
    for (_, code), count in answers.items():
        codes[code] += count
    return sorted(codes.items(), key=lambda item: -item[1])


def run(seed: int, minutes: float, pace: float = 1.0) -> Report:
    """Let a nemesis loose on a daemon; return what came of it.

    Args:
        seed: Of the plan.
        minutes: That it lasts, without what is proved afterwards.
        pace: Requests and faults, times this; 1 leaves room for others on two cores.
    """
    report = Report(seed=seed, minutes=minutes, pace=pace)
    with small_disk_daemon() as target:
        try:
            target.start()
            target.daemon.image("bootsector")
            target.daemon.image("tiny")
            heard = _let_loose(target, report)
            _judge(target, report, heard)
            _empty(target)
            report.problems += target.daemon.leaks()
            report.problems += finale.run(target, seed)
            if (status := target.daemon.stop()) != 0:
                report.problems.append(f"labd ended with {status}: {target.tail()}")
            report.problems += target.daemon.leaks_after_stop()
        except (AssertionError, LabdError) as error:
            report.problems.append(f"{type(error).__name__}: {error}")
        report.problems = target.problems + report.problems
        if report.problems:
            _keep(target, report)
    return report


def _keep(target: ChaosDaemon, report: Report) -> None:
    """Keep what tells how it came to that."""
    OUT.mkdir(exist_ok=True)
    kept = OUT / f"nemesis-{report.seed}"
    kept.with_suffix(".log").write_text(target.daemon.log.read_text(errors="replace"))
    lines = [json.dumps(event) for event in report.replay]
    kept.with_suffix(".events").write_text("\n".join(lines))
    report.problems.append(f"labd's log and all events are kept as {kept}.*")


def _let_loose(target: ChaosDaemon, report: Report) -> Sequence[Heard]:
    """Do the plan of a seed; return what was heard meanwhile."""
    seconds = report.minutes * 60
    with contextlib.closing(Subscriber(target.path)) as subscriber:
        _do_plan(target, report, seconds)
        _settle(target)
        until(lambda: _published(target), "the broker has all events", 120)
        time.sleep(1)  # for the last of them, which is no part of any promise
    return subscriber.heard


def _do_plan(target: ChaosDaemon, report: Report, seconds: float) -> None:
    """Do the plan of a seed, and make good what it broke."""
    clients, nemesis = Clients(target.path, CLIENTS), Faults(target)
    steps: list[Act | Fault] = [
        *acts(report.seed, seconds, 1.5 * report.pace),
        *faults(report.seed, seconds, 4.0 / report.pace),
    ]
    began = time.monotonic()
    # A fault that takes its time delays what follows it.
    for step in sorted(steps, key=lambda step: step.at):
        time.sleep(max(0.0, began + step.at - time.monotonic()))
        if time.monotonic() > began + seconds:
            break
        if isinstance(step, Act):
            clients.give(step)
        else:
            target.look()
            nemesis.do(step)
    nemesis.heal()
    target.look()
    clients.close(120)
    report.answers, report.faults = clients.answers, nemesis.done
    report.problems += clients.problems


def _published(target: ChaosDaemon) -> bool:
    with Client(target.path) as client:
        info = client.info()
    return bool(info["published_seq"] == info["last_seq"])


def _settle(target: ChaosDaemon) -> None:
    """Wait until nothing is under way, and nothing moves on its own account."""
    with Client(target.path) as client:
        for found in client.leases.all():
            with contextlib.suppress(LabdError):  # it is destroyed as we speak
                client.leases.cancel(found["lab"])
        until(lambda: _quiet(client), lambda: f"all is quiet: {_moving(client)}", _QUIET_WITHIN)


def _quiet(client: Client) -> bool:
    before = client.info()["last_seq"]
    if _moving(client):
        return False
    time.sleep(2.0)
    return not _moving(client) and bool(client.info()["last_seq"] == before)


def _moving(client: Client) -> list[str]:
    """Return what is not at an end yet."""
    operations = [f"{o['kind']} {o['lab']}" for o in client.operations() if o["state"] == "running"]
    nodes = [
        f"{lab['name']}/{node['name']} {node['state']}"
        for lab in client.labs()
        for node in lab["nodes"]
        if node["state"] in {"starting", "stopping", "running", "unresponsive"}
    ]
    classes = [found["name"] for found in client.classes.all() if not found["done"]]
    return operations + nodes + classes


def _judge(target: ChaosDaemon, report: Report, heard: Sequence[Heard]) -> None:
    """Hold everything against everything."""
    with Client(target.path) as client:
        history = check.History(
            replay=replay(client), heard=heard, listed=listed(client), kills=target.kills
        )
        report.problems += check.check(history)
        report.problems += [f"fsck: {found['text']}" for found in client.differences()]
    report.replay = list(history.replay)
    report.events = len(history.replay)
    report.operations = sum(e["type"] == "io.labd.operation.started" for e in history.replay)
    report.heard = sum(map(len, heard))
    report.kills = len(target.kills)


def _empty(target: ChaosDaemon) -> None:
    """Remove all that there is."""
    with Client(target.path) as client:
        for found in client.classes.all():
            client.classes.destroy(found["name"])
        until(lambda: not client.classes.all(), "no class is left", 120)
        for lab in client.labs():
            operation = client.act("destroy", lab["name"], force=True)
            Client.check_operation(client.wait_operation(operation["id"], 120))
        for record in client.checkpoints.all():
            client.checkpoints.remove(record["name"])
        for plugin in client.plugins():
            if plugin["enabled"]:
                client.set_plugin(plugin["name"], enabled=False)


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--pace", type=float, default=1.0, help="default: 1, for two cores")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1_000_000)
    print(f"# nemesis, seed {seed}", flush=True)
    report = run(seed, args.minutes, args.pace)
    print(report.text())
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
