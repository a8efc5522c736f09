"""How a function reaches a worker process.

A worker imports the module that registered the function, runs the script that did, or, where there is neither (a
notebook cell, a prompt), gets the function itself by value. A function that none of these can find again, a closure or
a lambda, is refused.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from scythe.errors import RegistrationError

_SCRIPT_NAME = "__mp_main__"
"""The name a script is loaded under, so that `if __name__ == "__main__":` is false there; multiprocessing's too."""

_loading = False


class AllocatedWhileLoading(BaseException):
    """A worker that loads a script has come to its `allocate`: what it needs is defined above, so it stops there."""


@dataclass(frozen=True)
class Origin:
    """Where a worker process finds a function.

    Attributes:
        kind: Import a module, run a script, or unpickle.
        module: The module's name.
        qualname: The function's name in it.
        path: The file of the module or script.
        stamp: The file's time of change and size, so that another version of it is another origin.
        payload: The function by value.
    """

    kind: Literal["module", "script", "value"]
    module: str
    qualname: str
    path: str | None = None
    stamp: tuple[int, int] | None = None
    payload: bytes | None = None


def check_portable(function: Callable[..., Any]) -> None:
    """Refuse a function that no worker process could find.

    Raises:
        RegistrationError: It is a lambda, or defined inside another function.
    """
    qualname = getattr(function, "__qualname__", repr(function))
    if "<lambda>" in qualname:
        raise RegistrationError(
            "A lambda cannot be an experiment: it has no name under which a worker process could find it. "
            "Write it as `def my_experiment(input_spec: …) -> …:` at the top level of a module."
        )
    if "<locals>" in qualname:
        raise RegistrationError(
            f"{qualname} is defined inside another function, where no worker process can find it. "
            "Move it to the top level of its module and pass what it needs through its input spec."
        )


def find_origin(function: Callable[..., Any]) -> Origin:
    """Say how a worker process gets at a function.

    Raises:
        RegistrationError: It cannot.
    """
    check_portable(function)
    name, qualname = function.__module__, function.__qualname__
    module = sys.modules.get(name)
    if name in ("__main__", _SCRIPT_NAME):
        spec = getattr(module, "__spec__", None)
        file = getattr(module, "__file__", None)
        if spec is not None and spec.name not in ("__main__", _SCRIPT_NAME):  # python -m package.module
            return _file_origin("module", spec.name, qualname, spec.origin)
        if file is not None and Path(file).exists() and _same_file(function.__code__.co_filename, file):
            return _file_origin("script", name, qualname, file)
        return _by_value(function)
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return _by_value(function)
    return _file_origin("module", name, qualname, file)


def _file_origin(kind: Literal["module", "script"], name: str, qualname: str, file: str | None) -> Origin:
    if file is None:
        return Origin(kind, name, qualname)
    path = Path(file).resolve()
    stat = path.stat() if path.exists() else None
    return Origin(kind, name, qualname, str(path), (stat.st_mtime_ns, stat.st_size) if stat else None)


def _same_file(a: str, b: str) -> bool:
    return Path(a).resolve() == Path(b).resolve()


def _by_value(function: Callable[..., Any]) -> Origin:
    import cloudpickle

    try:
        payload = cloudpickle.dumps(function)
    except Exception as error:
        raise RegistrationError(
            f"{function.__qualname__} cannot be sent to a worker process: {error}. It uses something that lives in "
            "this process only (an open file, a lock, a connection); make that inside the function, or put the "
            "function into a module."
        ) from error
    return Origin("value", function.__module__, function.__qualname__, payload=payload)


def load_origin(origin: Origin) -> Callable[..., Any]:
    """Return the function of an origin in this process; importing its module registers it too.

    Raises:
        Exception: Whatever importing raises.
    """
    if origin.kind == "value":
        import cloudpickle

        return cloudpickle.loads(origin.payload)  # type: ignore[no-any-return]
    module = _load(origin)
    found: Any = module
    for name in origin.qualname.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise ImportError(
                f"{origin.qualname} is not there when {origin.path or origin.module} is loaded in a worker process, "
                "which stops at the first `allocate`. Define it above that, or put what allocates behind "
                '`if __name__ == "__main__":`.'
            ) from error
    return getattr(found, "function", found)  # type: ignore[no-any-return]


def _load(origin: Origin) -> ModuleType:
    name = _SCRIPT_NAME if origin.kind == "script" else origin.module
    known = sys.modules.get(name)
    if known is not None and _is_file(known, origin.path):
        return known
    spec = None if origin.kind == "script" else _find_spec(origin)
    if spec is None and origin.path is not None:
        loader = SourceFileLoader(name, origin.path)
        spec = importlib.util.spec_from_file_location(name, origin.path, loader=loader)
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no module {name}, and no file it could be loaded from")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if origin.kind == "script":
        sys.modules["__main__"] = module
    with _loading_script(), suppress(AllocatedWhileLoading):
        spec.loader.exec_module(module)
    return module


def _find_spec(origin: Origin) -> ModuleSpec | None:
    """Find a module by its name; None if there is none, or one of another file."""
    try:
        spec = importlib.util.find_spec(origin.module)
    except ModuleNotFoundError as error:  # of the module's package; anything else is for the user to see
        if error.name is None or not origin.module.startswith(f"{error.name}."):
            raise
        return None
    same = spec is not None and (
        origin.path is None or (spec.origin is not None and _same_file(spec.origin, origin.path))
    )
    return spec if same else None


def _is_file(module: ModuleType, path: str | None) -> bool:
    file = getattr(module, "__file__", None)
    return path is None or (file is not None and _same_file(file, path))


@contextmanager
def _loading_script() -> Iterator[None]:
    global _loading
    before, _loading = _loading, True
    try:
        yield
    finally:
        _loading = before


def stop_if_loading() -> None:
    """End the loading of a script in a worker process when it comes to `allocate`.

    A script without `if __name__ == "__main__":` allocates when it is run, and would again in every worker.
    """
    if _loading:
        raise AllocatedWhileLoading
