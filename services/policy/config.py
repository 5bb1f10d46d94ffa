"""Section `policy` of the node's configuration."""

import re
from typing import Final, Literal

import msgspec

from services.policy.core import nets
from services.policy.core.nft.settings import FailsafePort, Settings

GATE_AT_MOST_S: Final = 18.0
"""The gateway gives an attach 20 s."""
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,9}")
_LOG_PREFIX = re.compile(r"[A-Za-z0-9_.:\- ]{1,27}")


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set about this service."""

    network_policy: Literal["off", "observe", "enforce"] = "off"
    """`off`: nothing watches the API server, and rules that were ours are taken away. `observe`: the calculation runs
    and can be asked, and nothing is enforced, as a dry run before a cluster moves from Calico. `enforce`: a pod starts
    when its rules are in the kernel; this process needs CAP_NET_ADMIN and CAP_SYS_ADMIN then."""
    compat: Literal["3.24.5", "3.5.2", "current"] = "3.24.5"
    """The Felix to equal: what current Terway builds, what old Terway shipped, what later Felix does."""
    discovery_s: float = 60.0
    """How often the API server is asked for kinds that were added or removed."""
    gate_s: float = 10.0
    """How long a pod waits for its rules before `unready` decides."""
    unready: Literal["retry", "closed", "open"] = "retry"
    """A pod whose rules are not in force in time. `retry`: its ADD fails with code 11 and is tried again. `closed`: it
    starts, and nothing passes until they are. `open`: it starts, and everything passes until they are."""
    refresh_s: float = 60.0
    """How often the kernel is compared with what is wanted, if anybody else wrote to its rules meanwhile (Felix:
    IptablesRefreshInterval, and Terway's value for it)."""
    endpoint_to_host_action: Literal["ACCEPT", "DROP", "RETURN"] = "ACCEPT"
    """What becomes of a pod's packets to its own node that its egress policies let through (Felix:
    DefaultEndpointToHostAction, and Terway's value for it)."""
    failsafe_inbound: tuple[str, ...] | None = None
    """Ports of this node that no host endpoint's policy closes, as `tcp:22`, or `tcp:10.0.0.0/8:22` for one network
    (Felix: FailsafeInboundHostPorts). Unset: Felix's own. Empty: none."""
    failsafe_outbound: tuple[str, ...] | None = None
    """The same for what this node asks of others (Felix: FailsafeOutboundHostPorts)."""
    drop_invalid: bool = True
    """Drop packets that belong to no connection (Felix: DisableConntrackInvalidCheck, the other way around)."""
    log_prefix: str = "calico-packet"
    """What the kernel's log says first of packets that a Log rule matches (Felix: LogPrefix)."""
    interface_prefixes: tuple[str, ...] = ("cali",)
    """Interfaces by these prefixes are pods' (Felix: InterfacePrefix); ipam names them with the first."""
    counters: Literal["off", "policy", "rule"] = "policy"
    """Metrics of what rules matched and dropped: none, a series per policy, direction and action, or one per rule.
    `/policy/counters` shows every rule anyway."""
    counters_most: int = 2000
    """Series of policies, and of endpoints' drops, at most; what comes later is counted together as `other`."""
    flow_log_group: int | None = None
    """Samples of what policies decide are logged by this group of nflog, which nobody else may read; unset: nothing is
    sampled. In pods with rules of their own a socket listens, too."""
    flow_log_rate: int = 100
    """Most samples of each rule in a second; of pods with rules of their own, in each."""
    flow_log_file: str = ""
    """Where the lines are appended, each a JSON object; empty: standard output."""
    http_host: str = "127.0.0.1"
    http_port: int = 9099
    """Felix's health port, which existing probes ask (terway.md §10.5). 0: any free one."""

    def __post_init__(self) -> None:
        problems = []
        if self.discovery_s < 1:
            problems.append(f"discovery_s: expected at least 1, got {self.discovery_s:g}")
        if not 0.1 <= self.gate_s <= GATE_AT_MOST_S:
            problems.append(f"gate_s: expected 0.1 to {GATE_AT_MOST_S:g}, got {self.gate_s:g}")
        if self.refresh_s < 1:
            problems.append(f"refresh_s: expected at least 1, got {self.refresh_s:g}")
        if not 0 <= self.http_port <= 65535:
            problems.append(f"http_port: expected 0 to 65535, got {self.http_port}")
        if self.counters_most < 1:
            problems.append(f"counters_most: expected at least 1, got {self.counters_most}; counters: off shows none")
        if self.flow_log_group is not None and not 0 <= self.flow_log_group <= 65535:
            problems.append(f"flow_log_group: expected 0 to 65535, got {self.flow_log_group}")
        if self.flow_log_rate < 1:
            problems.append(f"flow_log_rate: expected at least 1, got {self.flow_log_rate}")
        if self.flow_log_file and not self.flow_log_file.startswith("/"):
            problems.append(f"flow_log_file: expected an absolute path, got {self.flow_log_file!r}")
        if not self.interface_prefixes or not all(_PREFIX.fullmatch(prefix) for prefix in self.interface_prefixes):
            problems.append(f"interface_prefixes: expected names such as cali, got {self.interface_prefixes}")
        if not _LOG_PREFIX.fullmatch(self.log_prefix):
            problems.append(f"log_prefix: expected up to 27 letters, digits and -_.:, got {self.log_prefix!r}")
        for name in ("failsafe_inbound", "failsafe_outbound"):
            for written in getattr(self, name) or ():
                try:
                    failsafe(written)
                except ValueError as error:
                    problems.append(f"{name}: {error}")
        if problems:
            raise ValueError("\n".join(problems))

    def settings(self) -> Settings:
        """What the renderer is told."""
        built = Settings(
            workload_prefixes=self.interface_prefixes,
            endpoint_to_host_action=self.endpoint_to_host_action,
            log_prefix=self.log_prefix,
            drop_invalid=self.drop_invalid,
            flow_log_group=self.flow_log_group,
            flow_log_rate=self.flow_log_rate,
            usual_links=False,  # ipam's leases say which sandboxes there are
            shared_links=("ipvl_",),  # eni_manager's, in mode shared-ipvlan (terway.md §5.3)
        )
        if self.failsafe_inbound is not None:
            built = msgspec.structs.replace(built, failsafe_inbound=tuple(map(failsafe, self.failsafe_inbound)))
        if self.failsafe_outbound is not None:
            built = msgspec.structs.replace(built, failsafe_outbound=tuple(map(failsafe, self.failsafe_outbound)))
        return built


def failsafe(written: str) -> FailsafePort:
    """`tcp:22`, `udp:10.0.0.0/8:53`, `tcp:[fd00::/8]:22`. ValueError: it is none of them."""
    protocol, _, rest = written.lower().partition(":")
    net, colon, port = rest.rpartition(":")
    net = net.strip("[]")
    if protocol not in ("tcp", "udp", "sctp") or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{written!r} is no PROTOCOL:PORT or PROTOCOL:NETWORK:PORT, such as tcp:22")
    if colon and nets.network(net) is None:
        raise ValueError(f"{written!r}: {net!r} is no network")
    return FailsafePort(protocol, int(port), nets.network(net) or "" if colon else "")
