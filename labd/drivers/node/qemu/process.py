"""Start QEMU: bind its sockets, open its files, and spawn it jailed with nothing but those.

The VM's user can reach no path at all: whatever QEMU needs it inherits, opened. What lies in the
machine's own folder could have been put there by a QEMU that was broken out of, so it is opened
with suspicion.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from labd.drivers.node.qemu import console_backlog as backlog
from labd.drivers.node.qemu import devices
from labd.drivers.node.qemu.accel import KvmAccess, jail_for
from labd.drivers.node.qemu.argv import Descriptors
from labd.drivers.storage.port import BlockStorage
from labd.host.plain_file import open_file
from labd.host.spawn import Child, spawn
from labd.host.tuning import serve
from labd.model.checkpoints import Incoming
from labd.model.disks import BlockAttachment, DiskRef
from labd.model.errors import LaunchFailed
from labd.model.machine import MachineSpec
from labd.model.specs import Firmware, Machine

QMP_SOCKET: Final = "qmp.sock"
PEOPLE_SOCKET: Final = "hmp.sock"
SERIAL_SOCKET: Final = "serial.sock"
AGENT_SOCKET: Final = "agent.sock"
VNC_SOCKET: Final = "vnc.sock"
QEMU_LOG: Final = "qemu.log"
CONSOLE_LOG: Final = "console.log"
LOG_LIMIT: Final = 256 << 10  # bytes of QEMU's own log, kept twice at most

_PATH_LIMIT = 107  # bytes of a unix socket's path, unix(7)
_BACKLOG = 4
_SOCKETS = (QMP_SOCKET, PEOPLE_SOCKET, SERIAL_SOCKET, AGENT_SOCKET)


def make_folder(machine: MachineSpec) -> None:
    """Make the run folder, root's alone, without what an earlier start left there.

    Raises:
        LaunchFailed: It cannot be made.
    """
    try:
        machine.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (*_SOCKETS, VNC_SOCKET, QEMU_LOG, f"{QEMU_LOG}.1"):
            (machine.run / name).unlink(missing_ok=True)
    except OSError as error:
        raise LaunchFailed(f"cannot make the folder {machine.run}: {error.strerror}") from error


def remove_folder(machine: MachineSpec) -> None:
    """Remove the run folder and all in it (idempotent)."""
    shutil.rmtree(machine.run, ignore_errors=True)


def remove_folders(machines: Iterable[MachineSpec]) -> None:
    """Remove the run folders of some machines (idempotent). Blocks: use a thread."""
    for machine in machines:
        remove_folder(machine)


def listen(path: Path) -> socket.socket:
    """Bind and listen on a unix socket that only root may connect to.

    Raises:
        LaunchFailed: The path is too long, or the folder forbids it.
    """
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise LaunchFailed(
            f"the socket path {path} is longer than {_PATH_LIMIT} bytes: choose a shorter --root"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise LaunchFailed(f"cannot listen on {path}: {error.strerror}") from error
    return sock


def connect(path: Path) -> socket.socket:
    """Connect to a listening unix socket; at once, whether or not somebody accepts yet."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


async def readable(sock: socket.socket, seconds: float) -> bool:
    """True if a socket has something to read, or is closed, within `seconds`."""
    spoke = asyncio.Event()
    asyncio.get_running_loop().add_reader(sock, spoke.set)
    waiting = asyncio.ensure_future(spoke.wait())
    try:
        await asyncio.wait([waiting], timeout=seconds)
    finally:
        waiting.cancel()
        asyncio.get_running_loop().remove_reader(sock)
    return spoke.is_set()


async def attach_disks(
    machine: MachineSpec, storage: BlockStorage, stack: ExitStack
) -> dict[str, BlockAttachment]:
    """Have the storage open every layer of the drives; block node -> how QEMU gets at it.

    Raises:
        LaunchFailed, StorageFailed: One is missing, or is not what it should be.
    """
    found = {}
    for layer in devices.layers(machine):
        if isinstance(layer.source, DiskRef):
            attached = await storage.attach(layer.source, writable=layer.writable)
            if attached.fd is not None:
                stack.callback(os.close, attached.fd)
            found[layer.node] = attached
    return found


def open_firmware(machine: MachineSpec, stack: ExitStack) -> dict[str, BlockAttachment]:
    """Open the files of a UEFI machine; block node -> descriptor. Blocks: use a thread.

    Raises:
        LaunchFailed: One is missing or is not a plain file.
    """
    _copy_uefi_vars(machine)
    found = {}
    for layer in devices.layers(machine):
        if isinstance(layer.source, Path):
            fd = open_file(layer.source, writable=layer.writable)
            stack.callback(os.close, fd)
            found[layer.node] = BlockAttachment(fd=fd)
    return found


def open_readable(path: Path, machine: MachineSpec, stack: ExitStack) -> int:
    """Open a file that QEMU opens again by `/proc/self/fd/N`, as -kernel does.

    That checks the file's own mode, so one that is closed to the VM's user comes as a copy in
    memory.
    """
    fd = open_file(path, writable=False)
    stack.callback(os.close, fd)
    mode = os.fstat(fd).st_mode
    if mode & stat.S_IROTH:
        return fd
    copy = os.memfd_create(f"labd-{machine.key}-{path.name}")
    stack.callback(os.close, copy)
    size = os.fstat(fd).st_size
    offset = 0
    while offset < size:
        sent = os.sendfile(copy, fd, offset, size - offset)
        if not sent:
            raise LaunchFailed(f"{path} ended early: import the image again")
        offset += sent
    return copy


def open_config(machine: MachineSpec, stack: ExitStack) -> int | None:
    """Put the guest's configuration in a file in memory; None when there is none."""
    if not machine.config:
        return None
    fd = os.memfd_create(f"labd-{machine.key}-config")
    stack.callback(os.close, fd)
    view = memoryview(machine.config)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def open_inputs(
    machine: MachineSpec,
    taps: Mapping[str, int],
    stack: ExitStack,
    disks: Mapping[str, BlockAttachment],
    incoming: Incoming | None = None,
) -> Descriptors:
    """Bind the sockets and open the files of a machine. Blocks: use a thread.

    Args:
        machine: What will run.
        taps: Its taps, by `Nic.id`.
        stack: Closes everything that was opened here.
        disks: What `attach_disks` has opened; closed by whoever called that.
        incoming: The frozen state to start from; the caller's descriptors.

    Raises:
        LaunchFailed: Something is missing, or is not what it should be.
    """
    _check_firmware(machine)
    kernel, initrd = (
        None if path is None else open_readable(path, machine, stack)
        for path in (machine.kernel, machine.initrd)
    )
    qmp, people, serial, agent = (_bind(machine.run / name, stack) for name in _SOCKETS)
    return Descriptors(
        qmp=qmp,
        people=people,
        serial=serial,
        agent=agent,
        taps=taps,
        layers={**open_firmware(machine, stack), **disks},
        kernel=kernel,
        initrd=initrd,
        config=open_config(machine, stack),
        ram=incoming.ram if incoming is not None else None,
        incoming=incoming.state if incoming is not None else None,
        backlog=backlog.open_for(machine.key, stack),
    )


async def start(
    machine: MachineSpec,
    command: list[str],
    pass_fds: list[int],
    access: KvmAccess | None,
    opened: tuple[int, ...] = (),
) -> Child:
    """Spawn QEMU as the machine's user, in an empty network namespace, without a file to open.

    Args:
        machine: Whose user and log it is.
        command: QEMU's argv.
        pass_fds: What it inherits.
        access: How it gets at KVM; None for TCG.
        opened: Which of `pass_fds` it opens once more by `/proc/self/fd`.

    Raises:
        CommandFailed: QEMU, or what jails it, is not installed.
    """
    jail = jail_for(machine.uid, access, opened)
    log = os.open(
        machine.run / QEMU_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    try:
        child = await spawn(command, stdout=log, stderr=log, pass_fds=pass_fds, jail=jail)
    finally:
        os.close(log)
    # Until its CPUs run (`Vm.resume`): guests that run already would hold up those to come.
    serve(child.process, before_others=True)
    return child


def _bind(path: Path, stack: ExitStack) -> int:
    sock = listen(path)
    stack.callback(sock.close)
    return sock.fileno()


def log_tail(machine: MachineSpec, limit: int = 2000) -> str:
    """Return the last words of QEMU's log, at most `limit` characters."""
    try:
        with (machine.run / QEMU_LOG).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - limit))
            return file.read(limit).decode(errors="replace").strip()
    except OSError:
        return ""


def bound_log(machine: MachineSpec) -> None:
    """Keep QEMU's own log small: when large, its end becomes `qemu.log.1`. Blocks briefly.

    QEMU appends, so that truncating the file under it is safe.
    """
    path = machine.run / QEMU_LOG
    try:
        if path.stat().st_size <= LOG_LIMIT:
            return
        with path.open("rb") as file:
            file.seek(-LOG_LIMIT, os.SEEK_END)
            (machine.run / f"{QEMU_LOG}.1").write_bytes(file.read(LOG_LIMIT))
        os.truncate(path, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:  # a full disk is told by others; the log is not worth more
            return


def bound_logs(machines: Iterable[MachineSpec]) -> None:
    """Keep the logs of some QEMUs small. Blocks: use a thread."""
    for machine in machines:
        bound_log(machine)


def _check_firmware(machine: MachineSpec) -> None:
    disk_boot = machine.machine is Machine.MICROVM and machine.kernel is None
    if disk_boot and not devices.MICROVM_BIOS.exists():
        raise LaunchFailed(
            f"a microvm starts from a disk by {devices.MICROVM_BIOS}, which is missing: "
            "install it: apt-get install seabios; or use machine q35"
        )


def _copy_uefi_vars(machine: MachineSpec) -> None:
    """Give a UEFI machine its own variables, kept from start to start."""
    if machine.firmware is not Firmware.UEFI:
        return
    target = machine.folder / devices.UEFI_VARS_COPY
    try:
        data = devices.UEFI_VARS.read_bytes()
        machine.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(
            target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    except FileExistsError:
        return
    except FileNotFoundError as error:
        raise LaunchFailed(
            f"firmware uefi needs {error.filename}: install it: apt-get install ovmf"
        ) from error
    except OSError as error:
        raise LaunchFailed(f"cannot make {target}: {error.strerror}") from error
    with open(fd, "wb") as file:
        file.write(data)
