"""Felix's parameters -> section `policy` of the configuration, and what has no counterpart there.

A parameter is known by its lower-case name, as Felix knows it: `bpfEnabled` in a FelixConfiguration and
`FELIX_BPFENABLED` in calico-node's environment are one, and the environment wins.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from services.policy.core.migrate.findings import Finding, Outcome, Written, inner, listed
from services.policy.core.migrate.values import ports, seconds, truth
from services.policy.core.profiles import FELIX_3_5_2, Compat

_LOG_PREFIX = re.compile(r"[A-Za-z0-9_.:\- ]{1,27}")


_FAILSAFE_3_5: Final = ("tcp:179", "tcp:2379", "tcp:2380", "tcp:6666", "tcp:6667")


class Setting(msgspec.Struct, frozen=True):
    """One parameter: `field` as it was written."""

    name: str
    field: str
    value: Any


class Verdict(msgspec.Struct, frozen=True):
    """What a parameter comes to; `configuration` is what it asks of section `policy`."""

    outcome: Outcome
    why: str
    configuration: Mapping[str, Any] = {}


def configured(written: Written) -> Iterator[Setting]:
    """The parameters of a FelixConfiguration."""
    for field, value in written.spec.items():
        if value is not None:
            yield Setting(_name(field), f"spec.{field}", value)


def environment(written: Written) -> Iterator[Setting]:
    """The parameters in the environment of a DaemonSet's containers."""
    for container in listed(inner(written.spec, "template", "spec"), "containers"):
        for variable in listed(container, "env"):
            name = str(variable.get("name", ""))
            if name.startswith("FELIX_") and variable.get("value") is not None:
                yield Setting(_name(name.removeprefix("FELIX_")), f"env {name}", str(variable["value"]))


def _name(field: str) -> str:
    """Felix's own name for IP in IP is longer than that of the resource's field."""
    name = field.lower()
    return f"ipip{name.removeprefix('ipinip')}" if name.startswith("ipinip") else name


def runs_felix(written: Written) -> bool:
    """Whether a DaemonSet is Calico's or Terway's, or says something to Felix."""
    return str(written.metadata.get("name")).startswith(("calico-node", "terway")) or any(environment(written))


def judged(setting: Setting) -> Verdict:
    """What becomes of the parameter."""
    if _IRRELEVANT.fullmatch(setting.name):
        return Verdict("replaced", "about how Felix works, not about what is let through")
    judge = _PARAMETERS.get(setting.name)
    if judge is None:
        return Verdict("differs", f"not known here, so {setting.value!r} has no effect: see what it did for you")
    try:
        return judge(setting.value)
    except (ValueError, TypeError) as error:
        return Verdict("differs", f"cannot be read: {error}")


def finding(setting: Setting) -> Finding:
    """The same, for people."""
    verdict = judged(setting)
    return Finding(verdict.outcome, setting.field, verdict.why)


# ---- parameters that are carried over


def _carried(key: str, value: Any) -> Verdict:
    return Verdict("same", f"by policy.{key}", {key: value})


def _failsafe(key: str) -> Callable[[Any], Verdict]:
    return lambda value: _carried(key, list(ports(value)))


def _to_host(value: Any) -> Verdict:
    action = str(value).upper()
    if action not in ("ACCEPT", "DROP", "RETURN"):
        raise ValueError(f"{value!r} is none of Accept, Drop, Return")
    return _carried("endpoint_to_host_action", action)


def _log_prefix(value: Any) -> Verdict:
    if not _LOG_PREFIX.fullmatch(str(value)):
        return Verdict("differs", f"{value!r} is too long or has other characters than policy.log_prefix takes")
    return _carried("log_prefix", str(value))


def _prefixes(value: Any) -> Verdict:
    return _carried("interface_prefixes", [part.strip() for part in str(value).split(",") if part.strip()])


def _refresh(value: Any) -> Verdict:
    period = seconds(value)
    if period < 1:
        return Verdict("replaced", "what others change in our rules is always repaired: policy.refresh_s")
    return Verdict("replaced", "by policy.refresh_s", {"refresh_s": period})


def _health_port(value: Any) -> Verdict:
    port = int(str(value))
    if not 0 < port < 65536:
        raise ValueError(f"{value!r} is no port")
    return Verdict("replaced", "by policy.http_port", {"http_port": port})


# ---- parameters that have no counterpart, unless they say what is so here


def _if(condition: Callable[[Any], bool], why: str, otherwise: str = "what is so here") -> Callable[[Any], Verdict]:
    """It differs if the condition holds of the value."""
    return lambda value: Verdict("differs", why) if condition(value) else Verdict("same", otherwise)


def _unless(wanted: str, why: str) -> Callable[[Any], Verdict]:
    """It differs unless the value is this word."""
    return _if(lambda value: str(value).lower() != wanted, why)


_OVERLAY: Final = "there is no overlay: pods have addresses of the VPC, and the VPC routes them"

_PARAMETERS: Final[Mapping[str, Callable[[Any], Verdict]]] = {
    "failsafeinboundhostports": _failsafe("failsafe_inbound"),
    "failsafeoutboundhostports": _failsafe("failsafe_outbound"),
    "defaultendpointtohostaction": _to_host,
    "logprefix": _log_prefix,
    "interfaceprefix": _prefixes,
    "disableconntrackinvalidcheck": lambda value: _carried("drop_invalid", not truth(value)),
    "iptablesrefreshinterval": _refresh,
    "nftablesrefreshinterval": _refresh,
    "healthport": _health_port,
    "healthhost": lambda value: Verdict("replaced", "by policy.http_host", {"http_host": str(value)}),
    "bpfenabled": _if(truth, "there is no eBPF dataplane: kube-proxy must run again before the move"),
    "wireguardenabled": _if(truth, "nothing encrypts between nodes"),
    "wireguardenabledv6": _if(truth, "nothing encrypts between nodes"),
    "ipipenabled": _if(truth, _OVERLAY),
    "vxlanenabled": _if(truth, _OVERLAY),
    "chaininsertmode": _unless(
        "insert", "our table is one of its own: others' rules always judge too, before or after"
    ),
    "iptablesfilterallowaction": _unless("return", "what our table accepts, other tables may still drop"),
    "iptablesmangleallowaction": _unless("return", "what our table accepts, other tables may still drop"),
    "iptablesfilterdenyaction": _unless("drop", "what is denied is dropped, never rejected"),
    "nftablesfilterallowaction": _unless("return", "what our table accepts, other tables may still drop"),
    "nftablesmangleallowaction": _unless("return", "what our table accepts, other tables may still drop"),
    "nftablesfilterdenyaction": _unless("drop", "what is denied is dropped, never rejected"),
    "dropactionoverride": _unless("drop", "what is denied is dropped"),
    "workloadsourcespoofing": _unless("disabled", "a pod sends from its own addresses only"),
    "floatingips": _unless("disabled", "there are no floating addresses: use an EIP or a load balancer"),
    "ipv6support": _if(
        lambda value: not truth(value), "pods' IPv6 addresses are governed too, wherever they have some"
    ),
    "policysyncpathprefix": _if(bool, "there is no policy sync API: rules about HTTP limit nothing"),
    "natportrange": _if(bool, "policy masquerades nothing: what leaves the VPC does by a NAT gateway or an EIP"),
    "natoutgoingaddress": _if(bool, "policy masquerades nothing: what leaves the VPC does by a NAT gateway or an EIP"),
    "metadataaddr": _unless("none", "access to instance metadata is for policies to allow"),
    "interfaceexclude": _unless(
        "kube-ipvs0", "a host endpoint for * governs every interface but pods' own and the loopback"
    ),
    "prometheusmetricsenabled": _if(
        truth, "felix_* metrics keep their names, and are at /metrics of policy.http_port: change the scrape job"
    ),
}

_IRRELEVANT: Final = re.compile(
    r"log(?!prefix).*|debug.*|prometheus(?!metricsenabled$).*|usagereporting.*|reporting.*|endpointreporting.*|"
    r"endpointstatus.*|health(enabled|timeoutoverrides)|iptables(backend|lock.*|postwrite.*|markmask|natoutgoing.*)|"
    r"nftables(mode|markmask)|ipsetsrefreshinterval|maxipsetsize|interfacerefreshinterval|"
    r"netlinktimeout.*|route.*|deviceroute.*|removeexternalroutes|bpf(?!enabled$).*|wireguard(?!enabled(v6)?$).*|"
    r"ipip(?!enabled$).*|vxlan(?!enabled$).*|allow(vxlan|ipip)packetsfromworkloads|xdp.*|genericxdp.*|featuredetect.*|"
    r"featuregates|featureoverride.*|(use)?internaldataplanedriver|dataplane(driver|watchdog.*)|mtuifacepattern|"
    r"sidecaracceleration.*|externalnodes.*|awssrcdstcheck|windows.*|openstackregion|metadataport|typha.*|"
    r"datastoretype|felixhostname|etcd.*|kubenodeportranges|serviceloopprevention|programclusterroutes|"
    r"cgroupv2path|ipforwarding|gogcthreshold|gomaxprocs|gomemorylimitmb|requiremtufile"
)
"""By whole names: logs, usage, timers, locks, routes, and what belongs to a dataplane that is not switched on."""


def defaults(names: set[str], compat: Compat, *, terway: bool) -> Iterator[tuple[str, Verdict]]:
    """Felix's own defaults that are not ours, where nothing says otherwise. Terway sets some of its own."""
    if "defaultendpointtohostaction" not in names and not terway:
        why = (
            "nothing sets it, and Felix's default is Drop: by policy.endpoint_to_host_action. Calico's manifests say "
            "ACCEPT in calico-node's environment: give that DaemonSet too"
        )
        yield "spec.defaultEndpointToHostAction", Verdict("same", why, {"endpoint_to_host_action": "DROP"})
    if compat is not FELIX_3_5_2:
        return
    for field, key, own in (
        ("failsafeInboundHostPorts", "failsafe_inbound", ("tcp:22", "udp:68")),
        ("failsafeOutboundHostPorts", "failsafe_outbound", ("udp:53", "udp:67")),
    ):
        if field.lower() not in names:
            why = f"nothing sets it, and this version had fewer: by policy.{key}"
            yield f"spec.{field}", Verdict("same", why, {key: [*own, *_FAILSAFE_3_5]})
