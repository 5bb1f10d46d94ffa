"""CNI_* variables and the bytes of stdin become one typed request, or a CniError that names what is wrong.

The checks, their order and their codes are those of upstream's skel, so that whoever drives the reference plugins
can drive this one; cni.md lists them.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from services.cni_shim.core.chain import Previous, read_previous
from services.cni_shim.core.spec import NEWEST, SUPPORTED, UNSTATED, CniError, Code, at_least
from shared.contracts.ipam import Bandwidth
from shared.model import AttachmentKey, Cidr, PodKey

POD_ANNOTATIONS: Final = "io.kubernetes.cri.pod-annotations"
"""The capability by which containerd hands over the pod's annotations."""

REQUIRED: Final = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
}
SINCE: Final = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
"""The configuration's version from which a command exists."""

CONTAINER_ID: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*\Z")
NETWORK_NAME: Final = CONTAINER_ID
POD_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.\-]{0,251}[a-z0-9])?\Z")
"""DNS-1123 subdomain (Kubernetes: names of pods and, more narrowly, of namespaces)."""
KNOWN_ARGS: Final = frozenset(
    {"K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID", "IGNOREUNKNOWN"}
)


# ---- what a request may be


class Add(msgspec.Struct, frozen=True):
    """Connect a sandbox."""

    version: str
    key: AttachmentKey
    netns: str
    """CNI_NETNS as given, which the result repeats; it may exist in the runtime's mount namespace only."""
    netns_override: bool
    pod: PodKey
    pod_uid: str
    annotations: dict[str, str] | None
    bandwidth: Bandwidth | None
    mtu: int | None
    dns: dict[str, Any]
    previous: Previous | None
    host_stack: tuple[Cidr, ...] = ()
    disable_host_peer: bool = False


class Del(msgspec.Struct, frozen=True):
    """Disconnect it; the namespace may be gone."""

    version: str
    key: AttachmentKey
    netns: str
    netns_override: bool


class Check(msgspec.Struct, frozen=True):
    """Is it still as ADD left it?"""

    version: str
    key: AttachmentKey
    netns: str
    mtu: int | None
    previous: Previous


class Gc(msgspec.Struct, frozen=True):
    """Remove every attachment of the network that is not in `valid`, as (container id, interface)."""

    version: str
    network: str
    valid: frozenset[tuple[str, str]]


class Status(msgspec.Struct, frozen=True):
    """Could an ADD be served?"""

    version: str


Request = Add | Del | Check | Gc | Status


# ---- what stands on stdin (CNI spec section 1; terway.md §2.3); other keys are for others


class _RuntimeConfig(msgspec.Struct):
    bandwidth: dict[str, int | None] | None = None
    annotations: dict[str, str] | None = msgspec.field(default=None, name=POD_ANNOTATIONS)


class _Ipam(msgspec.Struct):
    type: str = ""


class _Valid(msgspec.Struct):
    container_id: str = msgspec.field(name="containerID")
    ifname: str


class _Config(msgspec.Struct):
    version: str = msgspec.field(default="", name="cniVersion")
    name: str = ""
    type: str = ""
    runtime: _RuntimeConfig | None = msgspec.field(default=None, name="runtimeConfig")
    previous: dict[str, Any] | None = msgspec.field(default=None, name="prevResult")
    valid: list[_Valid] | None = msgspec.field(default=None, name="cni.dev/valid-attachments")
    attachments: list[_Valid] | None = msgspec.field(default=None, name="cni.dev/attachments")
    ipam: _Ipam | None = None
    dns: dict[str, Any] | None = None
    ip_masq: bool | None = msgspec.field(default=None, name="ipMasq")
    mtu: int | None = None
    host_stack_cidrs: list[str] | None = None
    disable_host_peer: bool | None = None


_config = msgspec.json.Decoder(_Config)
_anything = msgspec.json.Decoder()


def parse(env: Mapping[str, str], stdin: bytes) -> Request:
    """One call of the runtime. CniError: what a plugin must refuse (the code says which kind)."""
    command = env.get("CNI_COMMAND", "")
    _check_environment(command, env)
    config = _decode(stdin)
    _check_config(command, config)
    match command:
        case "ADD":
            return _add(env, config)
        case "DEL":
            return Del(config.version, _key(env, config), env.get("CNI_NETNS", ""), _override(env))
        case "CHECK":
            previous = read_previous(config.previous)
            if previous is None:
                raise CniError(Code.BAD_CONFIG, "prevResult is missing; CHECK compares with the result of ADD")
            return Check(config.version, _key(env, config), env["CNI_NETNS"], config.mtu or None, previous)
        case "GC":
            valid = config.valid if config.valid is not None else config.attachments
            if valid is None:
                raise CniError(Code.BAD_CONFIG, "cni.dev/valid-attachments is missing; GC would remove everything")
            return Gc(config.version, config.name, frozenset((v.container_id, v.ifname) for v in valid))
        case _:
            return Status(config.version)


def stated_version(stdin: bytes) -> str:
    """The configuration's cniVersion where it can be read and we speak it, else the newest: errors are told in it."""
    try:
        stated = _anything.decode(stdin)["cniVersion"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return NEWEST
    return stated if stated in SUPPORTED else NEWEST


def _check_environment(command: str, env: Mapping[str, str]) -> None:
    required = REQUIRED.get(command)
    if required is None:
        problem = f"unknown CNI_COMMAND: {command}" if command else "required env variables [CNI_COMMAND] missing"
        raise CniError(Code.BAD_ENVIRONMENT, problem)
    missing = [name for name in required if not env.get(name)]
    if missing:
        raise CniError(Code.BAD_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    if "CNI_CONTAINERID" in required and not CONTAINER_ID.match(container_id := env["CNI_CONTAINERID"]):
        raise CniError(
            Code.BAD_ENVIRONMENT,
            f"CNI_CONTAINERID {container_id!r} is not a container id",
            "it starts with a letter or digit and goes on with letters, digits, '_', '.' and '-'",
        )
    if "CNI_IFNAME" in required and (problem := _ifname_problem(env["CNI_IFNAME"])):
        raise CniError(Code.BAD_ENVIRONMENT, f"CNI_IFNAME {env['CNI_IFNAME']!r} {problem}")


def _ifname_problem(name: str) -> str:
    if len(name.encode()) > 15:
        return "is longer than 15 bytes"
    if name in (".", ".."):
        return "cannot be an interface's name"
    if any(c in "/:" or c.isspace() for c in name):
        return "contains '/', ':' or white space"
    return ""


def _decode(stdin: bytes) -> _Config:
    try:
        return _config.decode(stdin)
    except msgspec.ValidationError as error:
        raise CniError(Code.BAD_CONFIG, f"network configuration: {_in_words(str(error))}") from error
    except (ValueError, RecursionError) as error:  # msgspec's own, and bytes that are not UTF-8
        raise CniError(Code.UNDECODABLE, f"the network configuration on stdin is not JSON: {error}") from error


def _in_words(problem: str) -> str:
    """msgspec's `Expected `str`, got `int` - at `$.name`` with the field first: `name: expected str, got int`."""
    what, at, path = problem.replace("`", "").rpartition(" - at ")
    what = what if at else path
    return f"{path.removeprefix('$').removeprefix('.') if at else 'stdin'}: {what[:1].lower()}{what[1:]}"


def _check_config(command: str, config: _Config) -> None:
    if not config.name:
        raise CniError(Code.BAD_CONFIG, "name is missing from the network configuration")
    if not NETWORK_NAME.match(config.name):
        raise CniError(Code.BAD_CONFIG, f"name {config.name!r} is not a network name")
    config.version = config.version or UNSTATED
    if config.version not in SUPPORTED:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {config.version!r} is not supported; use one of {', '.join(SUPPORTED)}",
        )
    since = SINCE.get(command)
    if since and not at_least(config.version, since):
        raise CniError(
            Code.INCOMPATIBLE_VERSION, f"cniVersion {config.version} does not allow {command}; it exists since {since}"
        )
    if command != "DEL":  # what ADD refused left nothing, and a DEL must not stand in a pod's way
        _check_unsupported(config)


def _check_unsupported(config: _Config) -> None:
    """Fields that ask for something which we would silently not do."""
    if config.ipam is not None and config.ipam.type:
        raise CniError(
            Code.UNSUPPORTED_FIELD,
            f"ipam.type {config.ipam.type!r} is not supported: addresses come from the VPC; remove ipam",
        )
    if config.ip_masq:
        raise CniError(
            Code.UNSUPPORTED_FIELD, "ipMasq true is not supported: pods have VPC addresses of their own; remove ipMasq"
        )


def _add(env: Mapping[str, str], config: _Config) -> Add:
    args = _args(env.get("CNI_ARGS", ""))
    runtime = config.runtime or _RuntimeConfig()
    if config.mtu and not 68 <= config.mtu <= 65535:
        raise CniError(Code.BAD_CONFIG, f"mtu {config.mtu} is outside of 68 to 65535")
    host_stack = []
    for cidr in config.host_stack_cidrs or ():
        try:
            host_stack.append(Cidr(str(ipaddress.ip_network(cidr, strict=False))))
        except ValueError as error:
            raise CniError(Code.BAD_CONFIG, f"host_stack_cidrs: {error}") from error
    return Add(
        version=config.version,
        key=_key(env, config),
        netns=env["CNI_NETNS"],
        netns_override=_override(env),
        pod=PodKey(_pod_name(args, "K8S_POD_NAMESPACE"), _pod_name(args, "K8S_POD_NAME")),
        pod_uid=args.get("K8S_POD_UID", ""),
        annotations=runtime.annotations,
        bandwidth=_bandwidth(runtime.bandwidth or {}),
        mtu=config.mtu or None,
        dns=config.dns or {},
        previous=read_previous(config.previous),
        host_stack=tuple(host_stack),
        disable_host_peer=bool(config.disable_host_peer),
    )


def _key(env: Mapping[str, str], config: _Config) -> AttachmentKey:
    return AttachmentKey(config.name, env["CNI_CONTAINERID"], env["CNI_IFNAME"])


def _override(env: Mapping[str, str]) -> bool:
    return env.get("CNI_NETNS_OVERRIDE", "").upper() in ("TRUE", "1")


def _args(text: str) -> dict[str, str]:
    """CNI_ARGS, `NAME=value;…` in any order. Unknown names are errors unless IgnoreUnknown says otherwise."""
    args: dict[str, str] = {}
    for pair in filter(None, text.split(";")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise CniError(Code.BAD_ENVIRONMENT, f"CNI_ARGS: {pair!r} is not NAME=value")
        args[name.upper()] = value
    unknown = sorted(args.keys() - KNOWN_ARGS)
    if unknown and args.get("IGNOREUNKNOWN", "").lower() not in ("1", "true", "t"):
        raise CniError(Code.BAD_ENVIRONMENT, f"CNI_ARGS: unknown {', '.join(unknown)}, and IgnoreUnknown is not set")
    return args


def _pod_name(args: Mapping[str, str], name: str) -> str:
    value = args.get(name, "")
    if not value:
        raise CniError(Code.BAD_ENVIRONMENT, f"CNI_ARGS: {name} is missing; it says which pod this is")
    if not POD_NAME.match(value):
        raise CniError(Code.BAD_ENVIRONMENT, f"CNI_ARGS: {name} {value!r} is not a Kubernetes name")
    return value


def _bandwidth(given: Mapping[str, int | None]) -> Bandwidth | None:
    """The `bandwidth` capability, in bits/s, as bytes/s; 0 and absence mean unlimited, bursts are ours to choose.

    The CNI conventions spell the keys `ingressRate`, containerd's Go struct `IngressRate`: case does not count.
    """
    rates = {name.lower(): rate or 0 for name, rate in given.items()}
    for name, rate in rates.items():
        if rate < 0:
            raise CniError(Code.BAD_CONFIG, f"runtimeConfig.bandwidth.{name} {rate} is negative")
    ingress, egress = rates.get("ingressrate", 0), rates.get("egressrate", 0)
    if not ingress and not egress:
        return None
    return Bandwidth(ingress=max(ingress // 8, 1) if ingress else None, egress=max(egress // 8, 1) if egress else None)
