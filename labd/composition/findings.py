"""What the doctor says of this host, with a daemon or without."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from labd.composition import storage
from labd.drivers.node.qemu import (
    QemuHypervisor,
)
from labd.host.config import Config
from labd.host.doctor import Finding, judge
from labd.host.facts import gather
from labd.host.threads import quick
from labd.model.paths import Paths


async def examine(paths: Paths, config: Config) -> list[Finding]:
    """Judge this host without a daemon."""
    with tempfile.TemporaryDirectory(prefix="labd-doctor-") as folder:
        # Machines' users must reach the device node in it.
        os.chmod(folder, 0o711)  # noqa: S103 - names in it are no secret
        return await judge_host(paths, config, QemuHypervisor("doctor", Path(folder)))


async def judge_host(paths: Paths, config: Config, hypervisor: QemuHypervisor) -> list[Finding]:
    """Gather the facts of this host and judge them."""
    facts = await gather(paths, config)
    probe = await hypervisor.probe_kvm()
    access = await quick(hypervisor.explain_kvm)
    judged = judge(
        facts,
        kvm_probe=probe.problem,
        kvm_access=access,
        kvm_cpu=str(probe.cpu or ""),
        kvm_note=probe.note,
    )
    return [*judged, *await quick(lambda: list(storage.findings(config.storage)))]
