"""Terway's `eni_conf`: the same keys, types, defaults and checks (terway.md §2.2): a ConfigMap moves over as it is.

Read as Go's decoder reads it: keys in any case, null is absent, an empty string means the default. A key that we do
not know is ignored with a warning, as Terway ignores it: the ConfigMap may come from another version.
"""

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from shared import log as logs
from shared.backoff import Backoff
from shared.config import ConfigError, Reader, did_you_mean, overrides, read_json, read_section, shown
from shared.duration import Duration, parse_duration
from shared.secret import Secret

log = logs.get(__name__)

MAX_SECURITY_GROUPS: Final = 10
"""An ENI takes no more."""


class Tag(msgspec.Struct, frozen=True):
    """A tag of a cloud resource."""

    key: str
    value: str = ""


class ExtraRoute(msgspec.Struct, frozen=True):
    """One more route in every pod, by the pod's gateway."""

    dst: str


class SymmetricRouting(msgspec.Struct, frozen=True):
    """`symmetric_routing_config` (terway.md §2.3, §5.8); what its values may be, eni_manager says."""

    interface: str = ""
    """The node's primary one. Empty: that of its default route; Terway's default is eth0."""
    mark: int = 0x10
    mask: int = 0x10
    table_id: int = 100
    rule_priority: int = 600
    comment: str = "terway-symmetric"
    backend: Literal["", "iptables", "nftables"] = ""
    """Taken, and of no effect: marks are set by nftables, which stands beside either."""


class EniConf(msgspec.Struct, frozen=True):
    """One field per key, named as Terway names it. Durations are seconds (`Duration` is a float)."""

    version: str = "1"
    """Informational."""
    access_key: Secret = Secret()
    access_secret: Secret = Secret()
    region_id: str = ""
    """Empty: from the metadata service."""
    credential_path: str = ""
    """A file with an encrypted STS token (terway.md §2.5)."""
    service_cidr: str = ""
    """At most one IPv4 and one IPv6 range, comma-separated; empty: from the cluster."""
    vswitches: dict[str, list[str]] = {}
    """Zone -> vSwitches; empty for this node's zone: the vSwitch of its primary ENI."""
    eni_tags: dict[str, str] = {}
    """Put on every new ENI, beside `creator=terway`."""
    max_pool_size: int = 5
    """Most idle addresses kept. The default is the product's (terway.md Appendix B), not the code's 0."""
    min_pool_size: int = 0
    """Fewest idle addresses kept."""
    min_eni: int = 0
    """If set, replaces min_pool_size by min_eni × addresses per ENI."""
    max_eni: int = 0
    """If set and smaller than the instance type's limit, the most ENIs."""
    eni_cap_ratio: float = 1.0
    eni_cap_shift: int = 0
    prefix: str = ""
    """Of ENI names."""
    security_group: str = ""
    security_groups: list[str] = []
    """Together with security_group; none at all: those of the primary ENI."""
    vswitch_selection_policy: Literal["random", "ordered", "most"] = "ordered"
    """`ordered` and `most` both mean: the vSwitch with the most free addresses. The default is the product's."""
    eni_selection_policy: Literal["most_ips", "least_ips"] = "most_ips"
    """Which ENI receives the next address."""
    ip_stack: Literal["ipv4", "dual"] = "ipv4"
    symmetric_routing: bool | None = None
    """Answers leave by the interface that the question came in by (terway.md §5.8). None: `eni_manager` decides."""
    symmetric_routing_config: SymmetricRouting = SymmetricRouting()
    """How they are made to."""
    enable_eni_trunking: bool = False
    enable_erdma: bool = False
    custom_stateful_workload_kinds: list[str] = []
    """Owner kinds that keep their address as StatefulSets do; compared in lower case."""
    ipam_type: Literal["", "default", "crd", "preferCRD"] = ""
    eni_cap_policy: str = ""
    enable_eip_pool: str = ""
    allow_eip_rob: str = ""
    enable_eip_migrate: bool = False
    hot_plug: str = ""
    """`false`: no ENI is attached while the node runs."""
    backoff_override: dict[str, Backoff] = {}
    """Entries of shared.backoff.TABLE replaced."""
    extra_routes: list[ExtraRoute] = []
    disable_device_plugin: bool = False
    eni_tag_filter: dict[str, str] = {}
    """If set, only ENIs with all these tags are managed."""
    eni_tag_block_list: tuple[Tag, ...] = (
        Tag("creator", "alibabacloud-erdma-controller"),
        Tag("terway.alibabacloud.com/excluded", "true"),
    )
    """An ENI with any of these is never used."""
    kube_client_qps: float = 0.0
    kube_client_burst: int = 0
    """Both or none; 0: the client's default."""
    resource_group_id: str = ""
    """For new ENIs."""
    rate_limit: dict[str, int] = {}
    """API -> calls per minute."""
    enable_patch_pod_ips: bool = True
    ip_pool_sync_period: Duration = Duration(120.0)
    ip_warm_up_size: int | None = None
    idle_ip_reclaim_after: Duration | None = None
    """None: idle addresses above the minimum are not reclaimed by time."""
    idle_ip_reclaim_interval: Duration = Duration(600.0)
    idle_ip_reclaim_batch_size: int = 5
    idle_ip_reclaim_jitter_factor: str = "0.1"
    enable_ip_prefix: bool = False
    ipv4_prefix_count: int = 0
    ipv6_prefix_count: int = 0

    @property
    def all_security_groups(self) -> tuple[str, ...]:
        """Union of both keys, in order, each once."""
        return tuple(dict.fromkeys(group for group in (self.security_group, *self.security_groups) if group))

    @property
    def service_cidrs(self) -> tuple[str, ...]:
        """The ranges of `service_cidr`."""
        return tuple(part.strip() for part in self.service_cidr.split(",") if part.strip())

    def max_enis(self, adapters: int) -> int:
        """ENIs for pods on an instance type with `adapters` network interfaces, its primary one included."""
        most = max(0, int(adapters * self.eni_cap_ratio) + self.eni_cap_shift - 1)
        return min(most, self.max_eni) if self.max_eni else most

    def pool_bounds(self, *, capacity: int, addresses_per_eni: int) -> tuple[int, int]:
        """(fewest, most) idle addresses, clamped to what the node can hold; a minimum above the maximum is lowered."""
        fewest = self.min_eni * addresses_per_eni if self.min_eni else self.min_pool_size
        most = min(self.max_pool_size, capacity)
        return min(fewest, most, capacity), most


NEW_ENIS_ONLY: Final = frozenset(
    {
        "vswitches",
        "vswitch_selection_policy",
        "security_group",
        "security_groups",
        "eni_tags",
        "prefix",
        "resource_group_id",
    }
)
"""Keys that say what new ENIs are made of: a change leaves the ENIs that exist as they are (terway.md §2.1)."""


def load_eni_conf(path: Path | None, env: Mapping[str, str], patch: Mapping[str, Any] = {}) -> EniConf:
    """Section `eni_conf` of the node's file: the object itself, or the path of a file that holds it.

    `patch` is what the cluster says for this node alone, merged over it (terway.md §2.4).
    Raises ConfigError with every problem. `TERWAY_ENI_CONF_<KEY>` in the environment overrides a key.
    """
    problems: list[str] = []
    given, source = read_section("eni_conf", path, problems)
    if isinstance(given, str):
        source = f" (file {given})"
        given = read_json(Path(given), problems)
    if not isinstance(given, dict):
        problems.append(f"eni_conf: expected an object or a file's path, got {shown(given)}{source}")
        given = {}
    if patch:
        given, source = merge_patch(given, patch), f"{source} with the node's own ConfigMap merged over it"
    conf = parse_eni_conf(given, source, problems, overrides(EniConf, "eni_conf", env, problems))
    if problems or conf is None:
        raise ConfigError(problems)
    return conf


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: objects are merged, null takes a key away, everything else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def parse_eni_conf(
    given: Mapping[str, Any], source: str, problems: list[str], env: Mapping[str, tuple[str, str]] = {}
) -> EniConf | None:
    """An eni_conf object; adds to `problems`, and gives None when there are any of its own."""
    before = len(problems)
    reader = Reader(source, problems)
    values: dict[str, Any] = {}

    def keep(name: str, value: Any, so_far: int) -> None:
        if len(problems) == so_far:  # else it is half a value
            values[name] = value

    for key, value in given.items():
        so_far = len(problems)
        name = key if key in _FIELDS else key.lower()
        if name not in _FIELDS:
            log.warning("eni_conf_key_ignored", key=key, hint=did_you_mean(key, _FIELDS).removeprefix("; "))
        elif name in _EMPTY_IS_DEFAULT and value == "":
            continue
        elif name == "backoff_override" and isinstance(value, dict):
            path = f"eni_conf.{name}"
            keep(name, {entry: _backoff(raw, f"{path}.{entry}", reader) for entry, raw in value.items()}, so_far)
        elif value is not None:
            keep(name, reader.value(value, _FIELDS[name], f"eni_conf.{name}"), so_far)
    for name, (variable, text) in env.items():
        so_far = len(problems)
        keep(name, reader.from_text(text, _FIELDS[name], f"eni_conf.{name}", variable), so_far)
    conf = EniConf(**values)
    _check(conf, reader)
    for fewest, most in (("min_pool_size", "max_pool_size"), ("min_eni", "max_eni")):
        # Only where both are stated: a default is no opinion, and 0 ENIs at most means no limit.
        if fewest in values and values.get(most) and values[fewest] > values[most]:
            reader.problem(
                f"eni_conf.{fewest}", f"{values[fewest]} is more than {most}, {values[most]}; lower it, or raise {most}"
            )
    return conf if len(problems) == before else None


_FIELDS: Final = {field.encode_name: field.type for field in msgspec.structs.fields(EniConf)}
_EMPTY_IS_DEFAULT: Final = {
    "vswitch_selection_policy",
    "eni_selection_policy",
    "ip_stack",
    "ip_pool_sync_period",
    "idle_ip_reclaim_after",
    "idle_ip_reclaim_interval",
    "idle_ip_reclaim_jitter_factor",
}


def _backoff(raw: Any, path: str, reader: Reader) -> Backoff | None:
    """Go's wait.Backoff: {Duration, Factor, Jitter, Steps, Cap}, keys in any case; durations as `5s` or nanoseconds."""
    if not isinstance(raw, dict):
        reader.problem(path, f"expected an object with Duration, Factor, Jitter, Steps, got {type(raw).__name__}")
        return None
    given = {str(key).lower(): value for key, value in raw.items()}
    for key in given.keys() - {"duration", "factor", "jitter", "steps", "cap", "initialdelay"}:
        reader.problem(f"{path}.{key}", "no such setting; there are Duration, Factor, Jitter, Steps, Cap")
    duration = _seconds(given.get("duration", 0), f"{path}.Duration", reader)
    cap = _seconds(given["cap"], f"{path}.Cap", reader) if given.get("cap") else None
    first = _seconds(given.get("initialdelay", 0), f"{path}.InitialDelay", reader)
    factor = reader.value(given.get("factor", 1.0), float, f"{path}.Factor")
    jitter = reader.value(given.get("jitter", 0.0), float, f"{path}.Jitter")
    steps = reader.value(given.get("steps", 1), int, f"{path}.Steps")
    if duration is None or factor is None or jitter is None or steps is None or first is None:
        return None
    if duration < 0 or factor < 0 or jitter < 0 or steps < 1:
        reader.problem(path, "Duration, Factor and Jitter are not negative, and Steps is at least 1")
        return None
    return Backoff(float(duration), factor or 1.0, jitter, cap, steps, float(first))


def _seconds(raw: Any, path: str, reader: Reader) -> float | None:
    match raw:
        case bool():
            pass
        case int():
            return raw / 1e9
        case str():
            try:
                return float(parse_duration(raw))
            except ValueError:
                pass
    reader.problem(path, f"expected a duration such as 5s, or nanoseconds, got {raw!r}")
    return None


def _check(conf: EniConf, reader: Reader) -> None:
    """What types cannot say."""

    def refuse(key: str, what: str) -> None:
        reader.problem(f"eni_conf.{key}", what)

    for name in ("max_pool_size", "min_pool_size", "min_eni", "max_eni", "kube_client_burst", "ipv4_prefix_count"):
        if getattr(conf, name) < 0:
            refuse(name, f"expected 0 or more, got {getattr(conf, name)}")
    if conf.ip_warm_up_size is not None and conf.ip_warm_up_size < 0:
        refuse("ip_warm_up_size", f"expected 0 or more, got {conf.ip_warm_up_size}")
    if not conf.eni_cap_ratio > 0:
        refuse("eni_cap_ratio", f"expected more than 0, got {conf.eni_cap_ratio:g}")
    for name in ("ip_pool_sync_period", "idle_ip_reclaim_after", "idle_ip_reclaim_interval"):
        seconds = getattr(conf, name)
        if seconds is not None and seconds <= 0:
            refuse(name, f"expected more than 0 seconds, got {seconds:g}")
    if not 1 <= conf.idle_ip_reclaim_batch_size <= 10:
        refuse("idle_ip_reclaim_batch_size", f"expected 1 to 10, got {conf.idle_ip_reclaim_batch_size}")
    if not _in_unit_interval(conf.idle_ip_reclaim_jitter_factor):
        refuse(
            "idle_ip_reclaim_jitter_factor",
            f'expected a number from "0.0" to "1.0" in quotes, got {conf.idle_ip_reclaim_jitter_factor!r}',
        )
    if conf.ipv6_prefix_count not in (0, 1):
        refuse("ipv6_prefix_count", f"expected 0 or 1, got {conf.ipv6_prefix_count}")
    if len(conf.all_security_groups) > MAX_SECURITY_GROUPS:
        refuse(
            "security_groups",
            f"{len(conf.all_security_groups)} security groups; an ENI takes at most {MAX_SECURITY_GROUPS}",
        )
    for zone, vswitches in conf.vswitches.items():
        if not all(vswitches):
            refuse(f"vswitches.{zone}", "a vSwitch id is empty")
    blocked = {(tag.key, tag.value) for tag in conf.eni_tag_block_list}
    for name, why in (
        ("eni_tag_filter", "no ENI could be managed"),
        ("eni_tags", "the ENIs that are made would not be managed"),
    ):
        for tag in blocked & getattr(conf, name).items():
            refuse(f"{name}.{tag[0]}", f"eni_tag_block_list has {tag[0]}={tag[1]}, too, so that {why}; take one away")
    for api, limit in conf.rate_limit.items():
        if limit < 1:
            refuse(f"rate_limit.{api}", f"expected at least 1 call per minute, got {limit}")
    if bool(conf.kube_client_qps) != bool(conf.kube_client_burst) or conf.kube_client_burst < conf.kube_client_qps:
        refuse("kube_client_burst", "set kube_client_qps and kube_client_burst both, burst at least qps")
    _check_networks(conf, refuse)


def _check_networks(conf: EniConf, refuse: Any) -> None:
    families = []
    for cidr in conf.service_cidrs:
        try:
            families.append(ip_network(cidr).version)
        except ValueError as error:
            refuse("service_cidr", str(error))
    if len(families) != len(set(families)):
        refuse("service_cidr", "expected at most one IPv4 and one IPv6 range")
    for number, route in enumerate(conf.extra_routes):
        try:
            ip_network(route.dst)
        except ValueError as error:
            refuse(f"extra_routes[{number}].dst", str(error))


def _in_unit_interval(text: str) -> bool:
    try:
        return 0.0 <= float(text) <= 1.0
    except ValueError:
        return False
