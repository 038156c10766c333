"""Counts of the code's map: how large the files are, who imports whom, and what `lab up` passes.

    python -m tools.house                a line for each count
    python -m tools.house --json         the same as one JSON object
    python -m tools.house --no-run       without the counts for which a lab is brought up

The sources are read, not imported. An import counts wherever it stands in a file, also within a
function or for type checking only; `from labd.a import b` is an import of the module `labd.a.b` if
there is one, else of `labd.a`. The lines of a function go from its `def` to its end, with those of
the functions in it.

What `lab up` passes is counted as it runs: the real command (in this process) asks the real API
over a socket, and the real engine brings up a lab of two nodes and a network over the fakes of
`tests/fakes`. The drivers below the engine's ports are therefore not among the modules. A module
counts if a function of it is called between the start of the verb and its end; a move is a call
from a function of one module to one of another, resumed coroutines too. What is used the first time
only (imports, caches) is left out by bringing up another lab before. The daemon's own tasks go on
meanwhile, so that the moves differ a little from run to run.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import inspect
import io
import json
import socket
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
LONG_FILE = 400  # lines
LONG_FUNCTION = 50  # lines
MANY_IMPORTS = 15
_PACKAGE = "labd"
_PATIENCE = 30.0  # seconds
_LAB = """name: house
networks: {lan: {subnet: 10.0.0.0/24}}
nodes:
  db: {image: disk, ready: {console: "guest: up"}, nics: {eth0: {network: lan}}}
  web:
    image: disk
    ready: {console: "guest: up"}
    depends_on: [db]
    nics: {eth0: {network: lan}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What is counted in the sources; lines are of text, empty ones and comments too."""

    files: int
    imported_by_one: int
    files_over_400_lines: int
    functions_over_50_lines: int
    file_lines_median: float
    file_lines_max: int
    function_lines_median: float
    function_lines_max: int
    modules_with_over_15_imports: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What `lab up` passes.

    Attributes:
        up_modules: Modules of labd in either process.
        up_modules_cli: Those in the process of `lab`.
        up_modules_daemon: Those in the daemon.
        up_moves: Calls from one module to another, in both.
    """

    up_modules: int
    up_modules_cli: int
    up_modules_daemon: int
    up_moves: int


class Sources:
    """The modules of a package.

    Args:
        root: The folder that has the package `labd`.
    """

    def __init__(self, root: Path) -> None:
        self._trees: dict[str, ast.Module] = {}
        self._lines: dict[str, int] = {}
        for path in sorted((root / _PACKAGE).rglob("*.py")):
            text = path.read_text()
            name = module_of(path.relative_to(root))
            self._trees[name] = ast.parse(text, str(path))
            self._lines[name] = len(text.splitlines())

    def count(self) -> Counts:
        """Count everything."""
        imports = {name: self.imports(name) for name in self._trees}
        importers = [sum(name in found for found in imports.values()) for name in self._trees]
        lines = list(self._lines.values())
        functions = [length for name in self._trees for length in self._functions(name)]
        return Counts(
            files=len(lines),
            imported_by_one=importers.count(1),
            files_over_400_lines=sum(length > LONG_FILE for length in lines),
            functions_over_50_lines=sum(length > LONG_FUNCTION for length in functions),
            file_lines_median=statistics.median(lines or [0]),
            file_lines_max=max(lines, default=0),
            function_lines_median=statistics.median(functions or [0]),
            function_lines_max=max(functions, default=0),
            modules_with_over_15_imports=sum(len(i) > MANY_IMPORTS for i in imports.values()),
        )

    def imports(self, module: str) -> set[str]:
        """Return the other modules of the package that a module imports."""
        found = set()
        for node in ast.walk(self._trees[module]):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {name if name in self._trees else node.module for name in names}
        return (found & self._trees.keys()) - {module}

    def _functions(self, module: str) -> Iterator[int]:
        for node in ast.walk(self._trees[module]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1


def module_of(path: Path) -> str:
    """Return the name of the module that a file is, such as `labd.api` for `labd/api/__init__.py`.

    Args:
        path: Relative to the folder that has the package.
    """
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Recorder:
    """Notes which modules of the package run, per thread, while it is on.

    Threads are seen that are started within `watching`; the one that enters it is `lab`.
    """

    def __init__(self, root: Path) -> None:
        self._prefix = f"{root / _PACKAGE}/"
        self._root = root
        self._modules: dict[str, str] = {}
        self._cli = threading.get_ident()
        self.on = False
        self.cli: set[str] = set()
        self.daemon: set[str] = set()
        self.moves = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Have this thread and all that are started in the block watched."""
        from labd.host import threads

        threads.renew()  # threads that are there already would not be heard
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if not self.on or event != "call" or not self._is_ours(frame):
            return
        module = self._module(frame)
        (self.cli if threading.get_ident() == self._cli else self.daemon).add(module)
        caller = frame.f_back
        if caller is not None and self._is_ours(caller) and self._module(caller) != module:
            self.moves += 1

    def _is_ours(self, frame: FrameType) -> bool:
        # The bodies of modules and classes are no functions.
        code = frame.f_code
        return code.co_filename.startswith(self._prefix) and bool(
            code.co_flags & inspect.CO_OPTIMIZED
        )

    def _module(self, frame: FrameType) -> str:
        file = frame.f_code.co_filename
        if file not in self._modules:
            self._modules[file] = module_of(Path(file).relative_to(self._root))
        return self._modules[file]


def record_up() -> Recorder:
    """Bring up a lab over fakes and return what ran meanwhile.

    Raises:
        RuntimeError: The lab did not come up.
    """
    recorder = Recorder(ROOT)
    with tempfile.TemporaryDirectory(prefix="labd-house-") as folder, recorder.watching():
        root = Path(folder)
        with _daemon(root):
            (root / "lab.yaml").write_text(_LAB)
            _up(root, "warm")
            recorder.on = True
            _up(root, "house")
            recorder.on = False
    return recorder


def passed() -> Passed:
    """Return the counts of what `lab up` passes."""
    recorder = record_up()
    return Passed(
        up_modules=len(recorder.cli | recorder.daemon),
        up_modules_cli=len(recorder.cli),
        up_modules_daemon=len(recorder.daemon),
        up_moves=recorder.moves,
    )


def _up(root: Path, name: str) -> None:
    from labd.cli.main import run

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = run(["--root", str(root), "up", str(root / "lab.yaml"), "--name", name])
    if status:
        raise RuntimeError(f"`lab up` ended with {status}: {said.getvalue()}")


@contextlib.contextmanager
def _daemon(root: Path) -> Iterator[None]:
    """Serve the API over fakes, in a thread of its own, at the socket of a root."""
    started, problem = threading.Event(), []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def work() -> None:
        try:
            asyncio.run(_serve(root, started, stop))
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits
            problem.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        if not started.wait(_PATIENCE) or problem:
            raise RuntimeError(f"no daemon over fakes: {problem or 'it hangs'}")
        yield
    finally:
        for loop, event in stop:
            loop.call_soon_threadsafe(event.set)
        thread.join(_PATIENCE)
    if problem:
        raise RuntimeError(f"the daemon over fakes failed: {problem[0]}") from problem[0]


async def _serve(
    root: Path,
    started: threading.Event,
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]],
) -> None:
    from labd.api.app import AppSettings
    from labd.api.server import serving
    from labd.features.app import make_app
    from labd.features.templates.shipped import ShippedTemplates
    from tests.fakes.daemon import engine_over_fakes

    (root / "run").mkdir()
    path = root / "run" / "api.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    ended = asyncio.Event()
    async with engine_over_fakes(root / "lib") as daemon:
        templates = ShippedTemplates(ROOT / "lab-templates")
        settings = AppSettings(version="0", tokens=_no_token, admin_socket=path)
        app = make_app(daemon.engine, templates, settings)
        async with serving(app, [listener]):
            stop.append((asyncio.get_running_loop(), ended))
            started.set()
            await ended.wait()


def _no_token(_: str, /) -> None:
    return None


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--no-run", action="store_true", help="bring no lab up")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with labd/")
    args = parser.parse_args()
    found = asdict(Sources(args.root).count())
    if not args.no_run:
        found |= asdict(passed())
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<30} {value:>8g}")


if __name__ == "__main__":
    main()
