"""Tilt's functions as far as the Tiltfile uses them: same arguments and types, recording calls.

Names, order and types of the arguments follow Tilt's API reference (docs.tilt.dev/api.html) and
pydantic enforces them, strictly: an argument that Tilt does not know, or of a type that it would
refuse, fails here too. The Tiltfile itself runs in a real Starlark interpreter.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import starlark
from pydantic import ConfigDict, Field, validate_call

# https://docs.tilt.dev/api.html: labels start and end alphanumeric and are short.
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[int, Field(ge=1)]


class TiltfileError(Exception):
    """What the Tiltfile reported by calling `fail`, or a use that Tilt would refuse."""


@dataclasses.dataclass(frozen=True)
class TriggerMode:
    name: str


@dataclasses.dataclass(frozen=True)
class Blob:
    source: str


@dataclasses.dataclass(frozen=True)
class Link:
    url: str
    name: str | None


@dataclasses.dataclass(frozen=True)
class HttpGetAction:
    port: int
    host: str
    scheme: str
    path: str


@dataclasses.dataclass(frozen=True)
class ExecAction:
    command: list[str]


@dataclasses.dataclass(frozen=True)
class TcpSocketAction:
    port: int
    host: str


@dataclasses.dataclass(frozen=True)
class Probe:
    period_secs: int
    exec: ExecAction | None
    http_get: HttpGetAction | None
    tcp_socket: TcpSocketAction | None


@dataclasses.dataclass(frozen=True)
class PortForward:
    local_port: int
    container_port: int | None
    name: str | None


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of a live update."""

    kind: str
    arguments: tuple[str, ...]


@dataclasses.dataclass
class Recording:
    """What a Tiltfile asked for."""

    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    local: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    images: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    workloads: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    manifests: list[Blob] = dataclasses.field(default_factory=list)
    enabled: list[str] | None = None


def strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks arguments by the annotations, without turning one type into another."""
    config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    return validate_call(config=config)(function)


def opaque(function: Callable[..., Any]) -> Callable[..., Any]:
    """Hands results to Starlark as values it can pass on and nothing else."""
    checked = strict(function)

    def call(*arguments: Any, **named: Any) -> starlark.OpaquePythonObject:
        return starlark.OpaquePythonObject(checked(*arguments, **named))

    return call


def link(url: str, name: str | None = None) -> Link:
    if not url.startswith(("http://", "https://")):
        raise TiltfileError(f"a link needs a scheme: {url}")
    return Link(url, name)


def http_get_action(
    port: Port, host: str = "localhost", scheme: str = "http", path: str = ""
) -> HttpGetAction:
    return HttpGetAction(port, host, scheme, path)


def exec_action(command: list[str]) -> ExecAction:
    return ExecAction(command)


def tcp_socket_action(port: Port, host: str = "localhost") -> TcpSocketAction:
    return TcpSocketAction(port, host)


def probe(
    initial_delay_secs: int = 0,
    timeout_secs: Positive = 1,
    period_secs: Positive = 10,
    success_threshold: Positive = 1,
    failure_threshold: Positive = 3,
    exec: ExecAction | None = None,
    http_get: HttpGetAction | None = None,
    tcp_socket: TcpSocketAction | None = None,
) -> Probe:
    if [exec, http_get, tcp_socket].count(None) != 2:
        raise TiltfileError("a probe has exactly one of exec, http_get, tcp_socket")
    return Probe(period_secs, exec, http_get, tcp_socket)


def port_forward(
    local_port: Port,
    container_port: Port | None = None,
    name: str | None = None,
    link_path: str | None = None,
    host: str | None = None,
) -> PortForward:
    return PortForward(local_port, container_port, name)


def sync(local_path: str, remote_path: str) -> Step:
    if not remote_path.startswith("/"):
        raise TiltfileError(f"sync needs an absolute remote path: {remote_path}")
    return Step("sync", (local_path, remote_path))


def run(cmd: str | list[str], trigger: str | list[str] = [], echo_off: bool = False) -> Step:  # noqa: B006
    return Step("run", (str(cmd),))


def fall_back_on(files: str | list[str]) -> Step:
    return Step("fall_back_on", tuple([files] if isinstance(files, str) else files))


def kustomize(pathToDir: str, kustomize_bin: str | None = None, flags: list[str] = []) -> Blob:  # noqa: B006, N803
    return Blob(pathToDir)


def version_settings(check_updates: bool = True, constraint: str = "") -> None:
    return None


def fail(msg: str) -> NoReturn:
    raise TiltfileError(msg)


def check_order(steps: list[Step]) -> None:
    """Refuses what Tilt refuses: fall-backs come first, and nothing is synced after a command."""
    order = {"fall_back_on": 0, "sync": 1, "run": 2}
    ranks = [order[step.kind] for step in steps]
    if ranks != sorted(ranks):
        raise TiltfileError(f"live_update steps out of order: {[step.kind for step in steps]}")


class Tilt:
    """The functions that have an effect, over one recording."""

    def __init__(self, root: Path, given: dict[str, Any]) -> None:
        self.recording = Recording()
        self._root = root
        self._given = given

    def read_file(self, file_path: str, default: str | None = None) -> str:
        path = self._root / file_path
        if not path.exists() and default is not None:
            return default
        return path.read_text(encoding="utf-8")

    def local_resource(
        self,
        name: str,
        cmd: str | list[str] = "",
        deps: str | list[str] | None = None,
        trigger_mode: TriggerMode | None = None,
        resource_deps: list[str] = [],  # noqa: B006
        ignore: str | list[str] = [],  # noqa: B006
        auto_init: bool = True,
        serve_cmd: str | list[str] = "",
        cmd_bat: str | list[str] = "",
        serve_cmd_bat: str | list[str] = "",
        allow_parallel: bool = False,
        links: str | Link | list[str | Link] = [],  # noqa: B006
        labels: list[Label] = [],  # noqa: B006
        env: dict[str, str] = {},  # noqa: B006
        serve_env: dict[str, str] = {},  # noqa: B006
        readiness_probe: Probe | None = None,
        dir: str = "",
        serve_dir: str = "",
    ) -> None:
        if name in self.recording.local:
            raise TiltfileError(f"local resource {name} is defined twice")
        if not cmd and not serve_cmd:
            raise TiltfileError(f"local resource {name} runs nothing")
        self.recording.local[name] = {
            "cmd": cmd,
            "serve_cmd": serve_cmd,
            "serve_env": serve_env,
            "deps": deps or [],
            "resource_deps": resource_deps,
            "readiness_probe": readiness_probe,
            "auto_init": auto_init,
            "trigger_mode": trigger_mode,
            "links": links,
            "labels": labels,
        }

    def docker_build(
        self,
        ref: str,
        context: str,
        build_args: dict[str, str] = {},  # noqa: B006
        dockerfile: str = "Dockerfile",
        dockerfile_contents: str | Blob = "",
        live_update: list[Step] = [],  # noqa: B006
        match_in_env_vars: bool = False,
        ignore: str | list[str] = [],  # noqa: B006
        only: str | list[str] = [],  # noqa: B006
        entrypoint: str | list[str] = [],  # noqa: B006
        target: str = "",
        ssh: str | list[str] = "",
        network: str = "",
        secret: str | list[str] = "",
        extra_tag: str | list[str] = "",
        container_args: list[str] | None = None,
        cache_from: str | list[str] = [],  # noqa: B006
        pull: bool = False,
        platform: str = "",
        extra_hosts: str | list[str] = [],  # noqa: B006
    ) -> None:
        check_order(live_update)
        self.recording.images[ref] = {
            "context": context,
            "build_args": build_args,
            "dockerfile": dockerfile,
            "only": only,
            "target": target,
            "live_update": live_update,
        }

    def k8s_yaml(self, yaml: str | list[str] | Blob, allow_duplicates: bool = False) -> None:
        self.recording.manifests.append(yaml if isinstance(yaml, Blob) else Blob(str(yaml)))

    def k8s_resource(
        self,
        workload: str = "",
        new_name: str = "",
        port_forwards: str | int | PortForward | list[str | int | PortForward] = [],  # noqa: B006
        extra_pod_selectors: dict[str, str] | list[dict[str, str]] = [],  # noqa: B006
        trigger_mode: TriggerMode | None = None,
        resource_deps: list[str] = [],  # noqa: B006
        objects: list[str] = [],  # noqa: B006
        auto_init: bool = True,
        pod_readiness: str = "",
        links: str | Link | list[str | Link] = [],  # noqa: B006
        labels: Label | list[Label] = [],  # noqa: B006
        discovery_strategy: str = "",
    ) -> None:
        if not workload and not (new_name and objects):
            raise TiltfileError("k8s_resource needs a workload, or objects and a new name")
        self.recording.workloads[new_name or workload] = {
            "workload": workload,
            "objects": objects,
            "port_forwards": port_forwards,
            "resource_deps": resource_deps,
            "labels": labels,
        }

    def define_string_list(self, name: str, args: bool = False, usage: str = "") -> None:
        self.recording.settings[name] = "list"

    def define_string(self, name: str, args: bool = False, usage: str = "") -> None:
        self.recording.settings[name] = "string"

    def define_bool(self, name: str, args: bool = False, usage: str = "") -> None:
        self.recording.settings[name] = "bool"

    def parse(self) -> dict[str, Any]:
        unknown = set(self._given) - set(self.recording.settings)
        if unknown:
            raise TiltfileError(f"settings that are not defined: {sorted(unknown)}")
        return dict(self._given)

    def set_enabled_resources(self, resources: list[str]) -> None:
        self.recording.enabled = resources


_RESULTS: tuple[Callable[..., Any], ...] = (
    *(link, http_get_action, exec_action, tcp_socket_action, probe, port_forward),
    *(sync, run, fall_back_on, kustomize),
)
# `config` is a module in Tilt; a struct with the same fields stands for it.
_PRELUDE = """
config = struct(
    main_dir=_main_dir,
    define_string_list=_define_string_list,
    define_string=_define_string,
    define_bool=_define_bool,
    parse=_parse,
    set_enabled_resources=_set_enabled_resources,
)
"""


def _dialect() -> starlark.Dialect:
    """Tilt's dialect: Starlark in Go with top-level statements, and without f-strings."""
    dialect = starlark.Dialect.standard()
    dialect.enable_def = True
    dialect.enable_lambda = True
    dialect.enable_load = True
    dialect.enable_keyword_only_arguments = True
    dialect.enable_top_level_stmt = True
    return dialect


def _functions(tilt: Tilt) -> dict[str, Callable[..., Any]]:
    """Names what a Tiltfile may call; those with an underscore are reached through `config`."""
    effects: tuple[Callable[..., Any], ...] = (
        *(version_settings, fail, tilt.read_file, tilt.local_resource),
        *(tilt.docker_build, tilt.k8s_yaml, tilt.k8s_resource),
    )
    configuration: tuple[Callable[..., Any], ...] = (
        *(tilt.define_string_list, tilt.define_string, tilt.define_bool),
        *(tilt.parse, tilt.set_enabled_resources),
    )
    return {
        **{function.__name__: opaque(function) for function in _RESULTS},
        **{function.__name__: strict(function) for function in effects},
        **{f"_{function.__name__}": strict(function) for function in configuration},
    }


def evaluate(path: Path, main_dir: Path | None = None, **given: Any) -> Recording:
    """Runs a Tiltfile with settings as on Tilt's command line, and returns what it asked for.

    Args:
        path: the Tiltfile.
        main_dir: what to tell it as its folder, instead of the one it lies in.
        given: settings by name.

    Raises:
        starlark.StarlarkError: what is wrong with it, in the language or in a call.
    """
    tilt = Tilt(path.parent, given)
    module = starlark.Module()
    module["TRIGGER_MODE_AUTO"] = starlark.OpaquePythonObject(TriggerMode("auto"))
    module["TRIGGER_MODE_MANUAL"] = starlark.OpaquePythonObject(TriggerMode("manual"))
    module["_main_dir"] = str(main_dir or path.parent)
    for name, function in _functions(tilt).items():
        module.add_callable(name, function)
    built_in = starlark.Globals.extended_by([starlark.LibraryExtension.StructType])
    starlark.eval(module, starlark.parse("prelude", _PRELUDE), built_in)
    program = starlark.parse(path.name, path.read_text(encoding="utf-8"), _dialect())
    starlark.eval(module, program, built_in)
    return tilt.recording
