"""Configuration: declared once as Structs, read from one JSON file per node and the environment, checked as a whole.

    {"node": {…}, "ipam": {…}, "eni_manager": {…}, "policy": {…}, "cni_shim": {…},
     "eni_conf": {…} or "/etc/eni/eni.json"}

`TERWAY_<SECTION>_<FIELD>` in the environment overrides a field; its value is JSON, or plain text where
that fits better.
Every problem is reported at once, with its path and where it came from; an unknown key is a problem. msgspec stops at
the first error of a value, so values are taken apart here and converted piece by piece.
"""

import types
from collections.abc import Callable, Mapping
from enum import EnumType
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from shared.duration import Duration, parse_duration
from shared.errors import Invalid
from shared.secret import Secret

T = TypeVar("T")

SECTIONS: Final = ("node", "ipam", "eni_manager", "policy", "cni_shim", "eni_conf", "lab")


class ConfigError(Invalid):
    """The configuration cannot be used; `problems` has one sentence per thing to mend."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class KubeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach the Kubernetes API. An empty `server` means that there is none."""

    server: str = ""
    """`https://host:port` or `http://…`."""
    token_file: Path | None = None
    """A bearer token, read again when it changes: bound tokens rotate."""
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    insecure: bool = False
    """Do not verify the server's certificate."""

    def __post_init__(self) -> None:
        if self.server and not self.server.startswith(("http://", "https://")):
            raise ValueError(f"server: expected http://… or https://…, got {self.server!r}")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; set both or none")


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all services of a node share: section `node`."""

    run_dir: Path = Path("/run/terway")
    """Sockets and locks."""
    state_dir: Path = Path("/var/lib/terway")
    """Databases and the spool; survives a reboot."""
    node_name: str = ""
    """This node's name in Kubernetes; the environment variable NODE_NAME counts when the file says nothing."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    kube: KubeConfig = KubeConfig()

    def socket(self, service: str) -> Path:
        """Where `service` (ipam, eni_manager, policy, gateway) listens."""
        return self.run_dir / f"{service}.sock"

    def database(self, service: str) -> Path:
        """The SQLite file of `service`."""
        return self.state_dir / f"{service}.sqlite"

    def lock(self, service: str) -> Path:
        """What a running `service` holds locked."""
        return self.run_dir / f"{service}.lock"

    @property
    def spool(self) -> Path:
        """Where deferred DELs wait."""
        return self.state_dir / "spool"


def load(kind: type[T], *, section: str, path: Path | None, env: Mapping[str, str]) -> T:
    """The section `section` of the node's file, overridden by the environment, as a `kind`.

    `path` None: no file, defaults and environment only. Raises ConfigError with every problem there is.
    """
    problems: list[str] = []
    given, source = read_section(section, path, problems)
    return _build(kind, section, given, source, env, problems)


def load_node(path: Path | None, env: Mapping[str, str]) -> NodeConfig:
    """Section `node`."""
    problems: list[str] = []
    given, source = read_section("node", path, problems)
    if isinstance(given, dict) and env.get("NODE_NAME"):
        given.setdefault("node_name", env["NODE_NAME"])
    return _build(NodeConfig, "node", given, source, env, problems)


def read_section(section: str, path: Path | None, problems: list[str]) -> tuple[Any, str]:
    """The raw value of one section ({} where there is none), and the file's name for messages."""
    if path is None:
        return {}, ""
    source = f" (file {path})"
    document = read_json(path, problems)
    if not isinstance(document, dict):
        problems.append(f"expected an object with sections, got {shown(document)}{source}")
        return {}, source
    problems.extend(
        f"{name}: no such section{did_you_mean(name, SECTIONS)}{source}" for name in document if name not in SECTIONS
    )
    return document.get(section, {}), source


def read_json(path: Path, problems: list[str]) -> Any:
    """The content of a JSON file; an empty object after a problem."""
    try:
        return msgspec.json.decode(path.read_bytes())
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: not JSON: {error}")
    return {}


def overrides(kind: type, section: str, env: Mapping[str, str], problems: list[str]) -> dict[str, tuple[str, str]]:
    """What the environment says of a section: field name -> (variable, text)."""
    prefix = f"TERWAY_{section.upper()}_"
    names = {f"{prefix}{field.encode_name.upper()}": field.encode_name for field in msgspec.structs.fields(kind)}
    found = {}
    for variable, text in env.items():
        if variable in names:
            found[names[variable]] = (variable, text)
        elif variable.startswith(prefix):
            problems.append(f"{variable}: no such setting{did_you_mean(variable, names)} (environment)")
    return found


def _build(kind: type[T], section: str, given: Any, source: str, env: Mapping[str, str], problems: list[str]) -> T:
    reader = Reader(source, problems)
    if not isinstance(given, dict):
        reader.problem(section, f"expected an object, got {shown(given)}")
        given = {}
    value = reader.struct(kind, given, section, env=overrides(kind, section, env, problems))
    if problems:
        raise ConfigError(problems)
    return value  # type: ignore[no-any-return]


class Reader:
    """Turns raw JSON into typed values, collecting problems instead of stopping at the first."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self._source = source
        self._problems = problems

    def problem(self, path: str, what: str) -> None:
        """Note one problem at `path`."""
        self._problems.append(f"{path}: {what}{self._source}")

    def struct(self, kind: Any, given: dict[str, Any], path: str, *, env: Mapping[str, tuple[str, str]] = {}) -> Any:
        """A `kind` from `given`, or None after problems."""
        before = len(self._problems)
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        for name in given:
            if name not in fields:
                self.problem(f"{path}.{name}", f"no such setting{did_you_mean(name, fields)}")
        values = {}
        for name, field in fields.items():
            if name in env:
                variable, text = env[name]
                values[field.name] = self.from_text(text, field.type, f"{path}.{name}", variable)
            elif name in given:
                values[field.name] = self.value(given[name], field.type, f"{path}.{name}")
            elif field.required:
                self.problem(f"{path}.{name}", "must be set")
        if len(self._problems) > before:
            return None
        try:
            return kind(**values)
        except ValueError as error:  # from __post_init__: one problem a line, `field: what` or about the whole
            for line in str(error).splitlines():
                name, colon, what = line.partition(": ")
                if colon and name in fields:
                    self.problem(f"{path}.{name}", what)
                else:
                    self.problem(path, line)
            return None

    def value(self, given: Any, kind: Any, path: str) -> Any:
        """`given` as a `kind`; None after a problem."""
        match _shape(kind):
            case ("struct", [struct]) if isinstance(given, dict):
                return self.struct(struct, given, path)
            case ("optional", [inner]):
                return None if given is None else self.value(given, inner, path)
            case ("list", [inner]) if isinstance(given, list):
                items = [self.value(item, inner, f"{path}[{number}]") for number, item in enumerate(given)]
                return tuple(items) if get_origin(kind) is tuple else items
            case ("dict", [inner]) if isinstance(given, dict):
                return {key: self.value(item, inner, f"{path}.{key}") for key, item in given.items()}
            case _:
                return self._leaf(given, kind, path)

    def _leaf(self, given: Any, kind: Any, path: str) -> Any:
        try:
            return msgspec.convert(given, kind, dec_hook=decode_own_types)
        except msgspec.ValidationError as error:
            choices = _choices(kind)
            expected = f"expected one of {', '.join(map(str, choices))}" if choices else _plain(str(error))
            self.problem(path, f"{expected}, got {'something else' if kind is Secret else shown(given)}")
            return None

    def from_text(self, text: str, kind: Any, path: str, variable: str) -> Any:
        """A value from the environment: JSON when that fits the type, else the text itself, else the problem."""
        first: list[str] = []
        for raw in (_json(text), text):
            problems: list[str] = []
            value = Reader(f" (environment {variable})", problems).value(raw, kind, path)
            if not problems:
                return value
            first = first or problems
        self._problems.extend(first)
        return None


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _shape(kind: Any) -> tuple[str, list[Any]]:
    """How to take a value of this type apart, and the types of its parts."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "struct", [kind]
    origin, arguments = get_origin(kind), list(get_args(kind))
    if origin in (Union, types.UnionType) and len(arguments) == 2 and type(None) in arguments:
        return "optional", [next(argument for argument in arguments if argument is not type(None))]
    if origin is list or (origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis):
        return "list", arguments[:1]
    if origin in (dict, Mapping) and arguments[0] is str:
        return "dict", arguments[1:]
    return "leaf", []


def decode_own_types(kind: type, value: object) -> object:
    """msgspec's `dec_hook` for the types of ours that configuration uses."""
    made: Callable[[str], object]
    if kind is Duration:
        made = parse_duration
    elif kind in (Secret, Path):
        made = kind
    else:
        raise NotImplementedError(f"no way to read a {kind}")
    if not isinstance(value, str):
        raise ValueError(f"Expected `str`, got `{_json_name(value)}`")
    return made(value)


def did_you_mean(name: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    """`; did you mean x?` when something is close."""
    from difflib import get_close_matches  # a mistake is rare, and every start would pay

    close = get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _plain(message: str) -> str:
    """msgspec's message without its quotes, its path (ours is better) and what it says of the type it got."""
    message = message.split(" - at ")[0].split(", got ")[0].replace("`", "")
    return message[:1].lower() + message[1:]


def _choices(kind: Any) -> list[object]:
    """The values of an enumeration or a Literal; empty for other types."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return list(kind.__members__.values()) if isinstance(kind, EnumType) else []


def shown(value: object) -> str:
    """What was found instead, with its JSON type, for a message."""
    text = repr(value)
    return f"{_json_name(value)} {text if len(text) <= 60 else text[:57] + '...'}" if value is not None else "null"


def _json_name(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case dict():
            return "object"
        case list():
            return "array"
        case _:
            return type(value).__name__
