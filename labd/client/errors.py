"""Problems of the API back to the errors that they were made of."""

from __future__ import annotations

import json

from labd.client.places import is_url
from labd.model import errors

# An answer of an unknown code, from a newer daemon, is known by its status at least.
_BY_STATUS: dict[int, type[errors.LabdError]] = {
    400: errors.InputError,
    413: errors.InputError,
    415: errors.InputError,
    422: errors.InputError,
    401: errors.Forbidden,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.InputError,
    409: errors.Conflict,
    421: errors.Forbidden,
    429: errors.Busy,
}


class EventsPruned(errors.NotFound):
    """Events after the asked seq are not kept any more; `details["first"]` is the lowest kept."""

    code = "events_pruned"


def _tree(root: type[errors.LabdError]) -> dict[str, type[errors.LabdError]]:
    """Return code -> class of what a client may meet; a daemon's own classes stay its own."""
    found = {root.code: root}
    for child in root.__subclasses__():
        if child.__module__ in {errors.__name__, __name__}:
            found.update(_tree(child))
    return found


def build(code: str, message: str, details: dict[str, object], status: int = 0) -> errors.LabdError:
    """Return the error that has this code, without running its own constructor.

    The constructors of some classes make the message out of parts; here it is known already.
    """
    kind = _tree(errors.LabdError).get(code) or _BY_STATUS.get(status, errors.WorldError)
    made = kind.__new__(kind)
    Exception.__init__(made, message)
    made.message = message
    made.details = details
    if isinstance(made, errors.TemplateError):
        made.file = str(details.get("file", ""))
        problems = details.get("problems")
        made.problems = tuple(
            errors.Problem(message=str(p["message"]), line=int(p["line"]), column=int(p["column"]))
            for p in (problems if isinstance(problems, list) else [])
        )
    elif isinstance(made, errors.IllegalTransition):
        required = details.get("required")
        made.subject = str(details.get("subject", ""))
        made.actual = str(details.get("actual", ""))
        made.required = tuple(map(str, required)) if isinstance(required, list) else ()
    return made


def from_problem(status: int, data: bytes) -> errors.LabdError:
    """Return the error of a problem document (RFC 9457), or of an answer that is none."""
    try:
        problem = json.loads(data)
        details = problem["details"]
        code, message = str(problem["code"]), str(problem["detail"])
    except (ValueError, TypeError, KeyError):
        text = data[:200].decode(errors="replace").strip()
        return build("", f"labd answered with HTTP status {status}: {text}", {}, status)
    return build(code, message, details if isinstance(details, dict) else {}, status)


def from_operation(error: dict[str, object]) -> errors.LabdError:
    """Return the error of a failed operation."""
    details = error.get("details")
    known = details if isinstance(details, dict) else {}
    rest = {k: v for k, v in error.items() if k not in {"code", "message", "details"}}
    return build(str(error.get("code", "")), str(error.get("message", "")), {**rest, **known})


def from_way(path: str, data: bytes) -> errors.LabdError:
    """Return the error of an answer of `connect.sock` that brought no descriptor."""
    try:
        answer = json.loads(data)
        code, message = str(answer["code"]), str(answer["message"])
        details = answer["details"]
    except (ValueError, TypeError, KeyError):
        return unreachable(path, "it gave no descriptor")
    return build(code, message, details if isinstance(details, dict) else {})


def _serve(path: str) -> str:
    """Return the command that starts the daemon whose socket is at `path`.

    `ROOT/run/NAME.sock` is below a root of its own, `/run/labd/NAME.sock` of the default one; from
    a socket elsewhere ($LABD_SOCKET) no root can be told.
    """
    root, _, name = path.rpartition("/run/")
    if not root or name not in {"api.sock", "connect.sock"}:
        return "labd serve"
    import shlex

    return f"labd serve --root {shlex.quote(root)}"


def unreachable(path: str, why: object) -> errors.DaemonUnreachable:
    """Return the error for a daemon that does not answer, with what to do about it."""
    if is_url(path):
        return errors.DaemonUnreachable(
            f"labd at {path} cannot be reached ({why}): look at the URL, whether its [api] listens "
            "there, and for https at the certificate (--ca)",
            socket=path,
        )
    if isinstance(why, FileNotFoundError | ConnectionRefusedError):
        return errors.DaemonUnreachable(
            f"labd does not run (no answer on {path}); start it with: {_serve(path)}", socket=path
        )
    if isinstance(why, PermissionError):
        return errors.DaemonUnreachable(
            f"you may not use {path}: become root, or a member of the group that owns it",
            socket=path,
        )
    if isinstance(why, TimeoutError):
        return errors.DaemonUnreachable(
            f"labd did not answer in time on {path}; see its log", socket=path
        )
    return errors.DaemonUnreachable(
        f"the talk with labd on {path} broke off ({why}); look whether it runs, and try again",
        socket=path,
    )
