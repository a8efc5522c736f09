"""The registry: functions from an input spec to an output spec, by name."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast, get_args

from scythe.errors import ExperimentTypeExists, ExperimentTypeNotFound, RegistrationError, SettingsError
from scythe.origins import Origin, check_portable, find_origin
from scythe.settings import TimeoutSettings, parse_duration
from scythe.specs import ExperimentInputSpec, ExperimentOutputSpec

In = TypeVar("In", bound=ExperimentInputSpec)
Out = TypeVar("Out", bound=ExperimentOutputSpec)

LocalFileLocation = Literal["cache", "copied-to-tempdir"]

NAME_PREFIX = "scythe_experiment_"

HATCHET_OPTIONS = frozenset({
    "on_events", "on_crons", "cron_input", "version", "sticky", "default_priority", "concurrency", "rate_limits",
    "backoff_factor", "backoff_max_seconds", "default_filters", "default_additional_metadata", "slot_cost",
    "idempotency", "input_validator",
})  # fmt: skip
"""Options of a Hatchet task that `Register` hands on; on the embedded engine they have no effect."""


@dataclass(frozen=True)
class Options:
    """How an experiment wants to be run.

    Attributes:
        description: What it does, for people.
        desired_worker_labels: What a worker must offer.
        schedule_timeout: How long a spec may wait for a worker.
        execution_timeout: How long one spec may run.
        retries: How often a spec that raised is tried again.
        inject_workflow_run_id: Whether specs get their own id.
        auto_fetch_files: Whether file references become local paths before the function is called.
        local_file_location: Hand over the cached file itself, or a copy in the spec's temporary folder.
        overwrite_log_method: Not used, 1.x had it: `spec.log` writes to the captured output.
        task_config: Further options of a Hatchet task.
    """

    description: str | None = None
    desired_worker_labels: Mapping[str, Any] = field(default_factory=dict)
    schedule_timeout: timedelta = timedelta(hours=10)
    execution_timeout: timedelta = timedelta(hours=10)
    retries: int = 1
    inject_workflow_run_id: bool = True
    auto_fetch_files: bool = True
    local_file_location: LocalFileLocation = "cache"
    overwrite_log_method: bool = True
    task_config: Mapping[str, Any] = field(default_factory=dict)


class Experiment(Generic[In, Out]):
    """A registered function; calling it runs the plain function here and now.

    Attributes:
        name: The name it is registered under, which is what keys contain.
        function: The plain function.
        input_type: The model of its input.
        output_type: The model of its output.
        options: How it wants to be run.
    """

    def __init__(
        self, function: Callable[..., Out], *, name: str | None = None, options: Options | None = None
    ) -> None:
        signature = _check_signature(function)
        self.function = function
        self.name = name or NAME_PREFIX + function.__name__
        self.options = options or Options()
        self.input_type: type[In] = cast(type[In], signature.input_type)
        self.output_type: type[Out] = cast(type[Out], signature.output_type)
        self.wants_tempdir = signature.wants_tempdir
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, input_spec: In, tempdir: Path | None = None) -> Out:
        """Run the plain function on one spec.

        Args:
            input_spec: The spec.
            tempdir: A folder for its files; one is made (and removed afterwards) where the function wants one and none
                is given. To keep files, give a folder.
        """
        if not self.wants_tempdir:
            return self.function(input_spec)
        if tempdir is not None:
            return self.function(input_spec, tempdir=Path(tempdir))
        with tempfile.TemporaryDirectory(prefix="scythe-spec-") as folder:
            return self.function(input_spec, tempdir=Path(folder))

    @property
    def input_validator_type(self) -> type[In]:
        """The model of its input, under the name 1.x gave it."""
        return self.input_type

    def origin(self) -> Origin:
        """Say how a worker process gets at the function."""
        return find_origin(self.function)

    def __deepcopy__(self, memo: object) -> Experiment[In, Out]:
        """Stay one: a copied model refers to the same experiment."""
        return self

    def __repr__(self) -> str:
        """Show its name and what it maps to what."""
        return f"<experiment {self.name}: {self.input_type.__name__} -> {self.output_type.__name__}>"


class ExperimentRegistry:
    """All experiments of this process; the one registry there is."""

    _experiments: ClassVar[dict[str, Any]] = {}

    @classmethod
    def Register(  # noqa: N802 - the name of 1.x
        cls,
        *functions: Callable[..., Any],
        worker: object | None = None,
        description: str | None = None,
        name: str | None = None,
        desired_worker_labels: Mapping[str, Any] | None = None,
        schedule_timeout: str | timedelta | None = None,
        execution_timeout: str | timedelta | None = None,
        retries: int = 1,
        inject_workflow_run_id: bool = True,
        auto_fetch_files: bool = True,
        local_file_location: LocalFileLocation = "cache",
        overwrite_log_method: bool = True,
        **task_config: Any,
    ) -> Callable[[Callable[..., Out]], Experiment[Any, Out]]:
        """Register a function `(input_spec: In) -> Out`, or `(input_spec: In, tempdir: Path) -> Out`.

        Args:
            *functions: Nothing; what is here was decorated without parentheses.
            worker: The Hatchet client to register with; Scythe's own where none is given.
            description: What the experiment does; the function's docstring where none is given.
            name: The name it goes by; `scythe_experiment_<function>` where none is given.
            desired_worker_labels: What a worker must offer to run it.
            schedule_timeout: How long a spec may wait for a worker ("10h", a timedelta).
            execution_timeout: How long one spec may run; it is stopped then and counts as failed.
            retries: How often a spec that raised is tried again.
            inject_workflow_run_id: Give every spec its own id.
            auto_fetch_files: Turn file references into local paths before the function is called.
            local_file_location: Hand over the cached file, or a copy in the spec's temporary folder.
            overwrite_log_method: Not used, 1.x had it: `spec.log` writes to the captured output.
            **task_config: Further options of a Hatchet task.

        Raises:
            RegistrationError: The function or an option is not what it has to be.
            ExperimentTypeExists: Another function has the name.
        """
        del worker  # the Hatchet engine's
        if functions:
            raise RegistrationError(
                f"Register was given {getattr(functions[0], '__qualname__', functions[0])!r} instead of options. Write "
                "@ExperimentRegistry.Register(), with parentheses, above the function."
            )
        unknown = sorted(set(task_config) - HATCHET_OPTIONS)
        if unknown:
            own = set(inspect.signature(cls.Register).parameters) - {"functions", "task_config"}
            known = sorted(own | HATCHET_OPTIONS)
            raise RegistrationError(f"Register has no option {unknown[0]!r}; it has: {', '.join(known)}.")
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise SettingsError("retries", retries, "use a whole number from 0 on")
        if local_file_location not in get_args(LocalFileLocation):
            raise SettingsError("local_file_location", local_file_location, 'use "cache" or "copied-to-tempdir"')
        defaults = TimeoutSettings()

        def register(function: Callable[..., Out]) -> Experiment[Any, Out]:
            options = Options(
                description=description or inspect.getdoc(function),
                desired_worker_labels=dict(desired_worker_labels or {}),
                schedule_timeout=_timeout(schedule_timeout, "schedule_timeout", defaults.EXPERIMENT_SCHEDULE),
                execution_timeout=_timeout(execution_timeout, "execution_timeout", defaults.EXPERIMENT_EXECUTION),
                retries=retries,
                inject_workflow_run_id=inject_workflow_run_id,
                auto_fetch_files=auto_fetch_files,
                local_file_location=local_file_location,
                overwrite_log_method=overwrite_log_method,
                task_config=task_config,
            )
            check_portable(function)
            experiment: Experiment[Any, Out] = Experiment(function, name=name, options=options)
            cls._add(experiment)
            return experiment

        return register

    @classmethod
    def _add(cls, experiment: Experiment[Any, Any]) -> None:
        holder = cls._experiments.get(experiment.name)
        if holder is not None and not (isinstance(holder, Experiment) and _same_place(holder, experiment)):
            raise ExperimentTypeExists(experiment.name, holder=_place(holder), function=_place(experiment))
        cls._experiments[experiment.name] = experiment

    @classmethod
    def Include(cls, runnable: Any) -> Any:  # noqa: N802 - the name of 1.x
        """Add a Hatchet task or workflow that was made elsewhere; its `name` is what it goes by."""
        name = getattr(runnable, "name", None)
        if not isinstance(name, str):
            raise RegistrationError(
                f"{runnable!r} has no name; Include takes a Hatchet task or workflow. "
                "For a plain function use @ExperimentRegistry.Register()."
            )
        if cls._experiments.get(name, runnable) is not runnable:
            raise ExperimentTypeExists(name, holder=_place(cls._experiments[name]), function=_place(runnable))
        cls._experiments[name] = runnable
        return runnable

    @classmethod
    def get_runnable(cls, name: str) -> Any:
        """Return what is registered under a name, with or without the prefix `scythe_experiment_`.

        Raises:
            ExperimentTypeNotFound: Nothing is.
        """
        for candidate in (name, NAME_PREFIX + name):
            if candidate in cls._experiments:
                return cls._experiments[candidate]
        raise ExperimentTypeNotFound(name, known=sorted(cls._experiments))

    @classmethod
    def get_experiment(cls, name: str) -> Any:
        """Return what is registered under a name; the spelling of scythe-engine 1.0."""
        return cls.get_runnable(name)

    @classmethod
    def experiments(cls) -> list[Any]:
        """Return all that is registered, in order of registration."""
        return list(cls._experiments.values())


def _timeout(value: str | timedelta | None, setting: str, default: timedelta) -> timedelta:
    return default if value is None else parse_duration(value, setting=setting)


def _place(runnable: Any) -> str:
    if isinstance(runnable, Experiment):
        return f"{runnable.__module__}.{runnable.__qualname__}"
    return repr(runnable)


def _same_place(a: Experiment[Any, Any], b: Experiment[Any, Any]) -> bool:
    """Tell whether two functions are versions of one: the same definition, run again.

    A script is known under two names in a worker process, and one file may be imported under two.
    """
    if a.__qualname__ != b.__qualname__:
        return False
    if a.__module__ == b.__module__:
        return True
    return a.function.__code__.co_filename == b.function.__code__.co_filename


@dataclass(frozen=True)
class _Signature:
    input_type: type[ExperimentInputSpec]
    output_type: type[ExperimentOutputSpec]
    wants_tempdir: bool


def _check_signature(function: Callable[..., Any]) -> _Signature:
    if not inspect.isfunction(function):
        raise RegistrationError(f"{function!r} is not a plain function; write `def name(input_spec: …) -> …:`.")
    name = function.__qualname__
    shape = f"def {function.__name__}(input_spec: MyInput, tempdir: Path) -> MyOutput: (tempdir may be left out)"
    parameters = list(inspect.signature(function).parameters.values())
    names = [parameter.name for parameter in parameters]
    if inspect.iscoroutinefunction(function):
        raise RegistrationError(f"{name} is async; an experiment is a plain function. Write it as {shape}.")
    if not names or names[0] != "input_spec":
        raise RegistrationError(
            f"The first parameter of {name} must be called input_spec, not {names[0] if names else 'missing'}. "
            f"Write it as {shape}."
        )
    if names[1:] not in ([], ["tempdir"]):
        raise RegistrationError(
            f"{name} takes {', '.join(names)}; besides input_spec an experiment may only take tempdir. "
            f"Put other parameters into the input spec. Write it as {shape}."
        )
    hints = _resolve_hints(function, name)
    input_type = _check_model(hints, "input_spec", ExperimentInputSpec, f"input_spec of {name}", shape)
    output_type = _check_model(hints, "return", ExperimentOutputSpec, f"the return value of {name}", shape)
    if "tempdir" in names and hints.get("tempdir", Path) not in (Path, Path | None):
        raise RegistrationError(
            f"tempdir of {name} is annotated {hints['tempdir']!r}; it is a Path. Write it as {shape}."
        )
    return _Signature(input_type, output_type, "tempdir" in names)


def _resolve_hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    """Return the annotations, those written as strings resolved.

    Only the ones that matter are resolved, and names of the typing world (`Path` under TYPE_CHECKING) may be missing.
    """
    hints = {}
    names = inspect.unwrap(function).__globals__
    for key, annotation in function.__annotations__.items():
        if not isinstance(annotation, str):
            hints[key] = annotation
            continue
        try:
            hints[key] = eval(annotation, names)
        except Exception as error:
            if key == "tempdir" and isinstance(error, NameError):
                hints[key] = Path
                continue
            raise RegistrationError(
                f"The annotation {annotation!r} of {name} cannot be resolved ({type(error).__name__}: {error}). Define "
                "or import what it names at the top of the module, above the function and not only under TYPE_CHECKING."
            ) from error
    return hints


_Base = TypeVar("_Base", ExperimentInputSpec, ExperimentOutputSpec)


def _check_model(hints: Mapping[str, Any], key: str, base: type[_Base], what: str, shape: str) -> type[_Base]:
    if key not in hints:
        raise RegistrationError(
            f"{what} has no annotation; it must be a subclass of {base.__name__}. Write the function as {shape}."
        )
    annotation = hints[key]
    if not (isinstance(annotation, type) and issubclass(annotation, base)):
        shown = getattr(annotation, "__name__", None) or repr(annotation)
        raise RegistrationError(
            f"{what} is annotated {shown}, which is not a subclass of {base.__name__}. Write a "
            f"`class MyModel({base.__name__}): …` with its values as fields, and the function as {shape}."
        )
    return annotation
