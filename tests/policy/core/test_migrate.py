"""What is said of Calico's objects: what behaves the same, what differs, and which configuration it takes."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.config import PolicyConfig
from services.policy.core.migrate.findings import Report, Written
from services.policy.core.migrate.judge import nearest, report
from services.policy.core.migrate.values import ports, seconds, truth
from tests.policy.test_fuzz import JUNK, MANIFESTS, spoiled

Json = Any

CRD = "crd.projectcalico.org/v1"


def written(kind: str, spec: Json, name: str = "default", version: str = CRD, **meta: Json) -> Written:
    return Written({"apiVersion": version, "kind": kind, "metadata": {"name": name, **meta}, "spec": spec})


def calico_node(**environment: str) -> Written:
    variables = [{"name": f"FELIX_{name}", "value": value} for name, value in environment.items()]
    spec = {"template": {"spec": {"containers": [{"name": "calico-node", "env": variables}]}}}
    return written("DaemonSet", spec, "calico-node", "apps/v1", namespace="kube-system")


def outcomes(answer: Report) -> dict[str, str]:
    return {finding.field: finding.outcome for judged in answer.objects for finding in judged.findings}


@pytest.mark.parametrize(
    ("parameter", "value", "outcome"),
    [
        *(("bpfEnabled", True, "differs"), ("bpfEnabled", False, "same"), ("bpfLogLevel", "Debug", "replaced")),
        *(("wireguardEnabled", True, "differs"), ("wireguardEnabledV6", True, "differs")),
        *(("wireguardEnabled", False, "same"), ("wireguardMTU", 1400, "replaced")),
        *(("vxlanEnabled", True, "differs"), ("ipipEnabled", False, "same"), ("vxlanVNI", 4096, "replaced")),
        *(("chainInsertMode", "Insert", "same"), ("chainInsertMode", "Append", "differs")),
        *(("iptablesFilterAllowAction", "Accept", "differs"), ("iptablesFilterAllowAction", "Return", "same")),
        *(("iptablesFilterDenyAction", "Reject", "differs"), ("nftablesFilterDenyAction", "Drop", "same")),
        *(("workloadSourceSpoofing", "Any", "differs"), ("floatingIPs", "Enabled", "differs")),
        ("ipInIpMtu", 1440, "replaced"),
        *(("policySyncPathPrefix", "/var/run/nodeagent", "differs"), ("natPortRange", "1024:2048", "differs")),
        *(("prometheusMetricsEnabled", True, "differs"), ("prometheusMetricsPort", 9091, "replaced")),
        *(("logSeverityScreen", "Info", "replaced"), ("routeRefreshInterval", "90s", "replaced")),
        *(("iptablesBackend", "NFT", "replaced"), ("reportingInterval", "0s", "replaced")),
        *(("heardOfNever", 1, "differs"), ("bpfEnabled", "perhaps", "differs")),
    ],
)
def test_parameters_of_felix(parameter: str, value: Json, outcome: str) -> None:
    answer = report([written("FelixConfiguration", {parameter: value})])
    assert outcomes(answer)[f"spec.{parameter}"] == outcome
    assert answer.differs == (outcome == "differs")
    by_environment = report([calico_node(**{parameter.upper(): str(value)})])
    assert outcomes(by_environment)[f"env FELIX_{parameter.upper()}"] == outcome


@pytest.mark.parametrize(
    ("spec", "configuration"),
    [
        ({"failsafeInboundHostPorts": []}, {"failsafe_inbound": []}),
        ({"failsafeOutboundHostPorts": "none"}, {"failsafe_outbound": []}),
        (
            {"failsafeInboundHostPorts": [{"protocol": "TCP", "port": 22}, {"port": 53, "net": "fd00::/8"}]},
            {"failsafe_inbound": ["tcp:22", "tcp:[fd00::/8]:53"]},
        ),
        (
            {"failsafeOutboundHostPorts": "udp:53, tcp:10.0.0.0/8:22,443"},
            {"failsafe_outbound": ["udp:53", "tcp:10.0.0.0/8:22", "tcp:443"]},
        ),
        ({"defaultEndpointToHostAction": "Return"}, {"endpoint_to_host_action": "RETURN"}),
        ({"logPrefix": "dropped: "}, {"log_prefix": "dropped: "}),
        ({"interfacePrefix": "cali,eni"}, {"interface_prefixes": ["cali", "eni"]}),
        ({"disableConntrackInvalidCheck": True}, {"drop_invalid": False}),
        ({"iptablesRefreshInterval": "1m30s"}, {"refresh_s": 90.0}),
        ({"iptablesRefreshInterval": "0s"}, {}),
        ({"healthPort": 9199, "healthHost": "127.0.0.2"}, {"http_port": 9199, "http_host": "127.0.0.2"}),
    ],
)
def test_what_can_be_configured_is_and_our_own_section_takes_it(spec: Json, configuration: Json) -> None:
    answer = report([written("FelixConfiguration", spec)])
    assert not answer.differs
    said = dict(answer.configuration)
    if "endpoint_to_host_action" not in configuration:
        assert said.pop("endpoint_to_host_action") == "DROP", "Felix's default, which is not ours"
    assert said == configuration
    config = msgspec.convert(answer.configuration, PolicyConfig)
    config.settings()


def test_a_node_s_own_parameters_are_its_own_and_the_environment_wins() -> None:
    answer = report(
        [
            written("FelixConfiguration", {"logPrefix": "all", "wireguardEnabled": True}),
            written("FelixConfiguration", {"logPrefix": "one", "healthPort": 9099}, "node.n1"),
            calico_node(WIREGUARDENABLED="false", DEFAULTENDPOINTTOHOSTACTION="ACCEPT"),
        ]
    )
    assert not answer.differs
    assert answer.configuration == {"log_prefix": "all", "endpoint_to_host_action": "ACCEPT"}
    assert answer.nodes == {"n1": {"log_prefix": "one", "http_port": 9099}}


def test_ipv6_differs_where_there_is_any() -> None:
    off, on = calico_node(IPV6SUPPORT="false"), calico_node(IPV6SUPPORT="true")
    four, six = written("IPPool", {"cidr": "10.244.0.0/16"}), written("IPPool", {"cidr": "fd00:1::/64"})
    assert [report(found).differs for found in ([off, four], [off, four, six], [on, four, six])] == [False, True, False]


def test_defaults_are_those_of_the_version_and_of_whoever_runs_it() -> None:
    felix = written("FelixConfiguration", {})
    old = report([felix, written("ClusterInformation", {"calicoVersion": "v3.5.2"})]).configuration
    assert old["failsafe_inbound"] == ["tcp:22", "udp:68", "tcp:179", "tcp:2379", "tcp:2380", "tcp:6666", "tcp:6667"]
    assert old["failsafe_outbound"][:2] == ["udp:53", "udp:67"] and "tcp:6443" not in old["failsafe_outbound"]
    msgspec.convert(old, PolicyConfig)
    assert report([felix]).configuration == {"endpoint_to_host_action": "DROP"}
    terway = written("DaemonSet", {}, "terway-eniip", "apps/v1")
    assert report([felix, terway]).configuration == {}, "Terway's is ACCEPT, which is ours"


@pytest.mark.parametrize(
    ("kind", "spec", "field", "outcome"),
    [
        ("IPPool", {"cidr": "10.244.0.0/16"}, "spec.cidr", "replaced"),
        ("IPPool", {"cidr": "10.244.0.0/16", "natOutgoing": True}, "spec.natOutgoing", "differs"),
        ("IPPool", {"cidr": "10.244.0.0/16", "vxlanMode": "Always"}, "spec.vxlanMode", "replaced"),
        ("IPPool", {"cidr": "10.244.0.0/16", "nodeSelector": "has(a)"}, "spec.nodeSelector", "differs"),
        ("BGPConfiguration", {"asNumber": 64512}, "", "replaced"),
        ("BGPConfiguration", {"serviceClusterIPs": [{"cidr": "10.0.0.0/16"}]}, "spec.serviceClusterIPs", "differs"),
        ("BGPPeer", {"peerIP": "10.0.0.1"}, "", "differs"),
        (
            "KubeControllersConfiguration", {"controllers": {"node": {"hostEndpoint": {"autoCreate": "Enabled"}}}},
            "spec.controllers.node.hostEndpoint.autoCreate", "differs",
        ),
        ("StagedGlobalNetworkPolicy", {}, "", "same"),
        ("ClusterInformation", {"datastoreReady": False}, "spec.datastoreReady", "differs"),
        ("NeverHeardOf", {}, "kind", "differs"),
        ("HostEndpoint", {"node": "n1", "interfaceName": "eth0"}, "", "same"),
        ("HostEndpoint", {"node": "n1", "interfaceName": "tunl0"}, "spec.interfaceName", "differs"),
        ("GlobalNetworkPolicy", {"selector": "all()", "doNotTrack": True, "applyOnForward": True}, None, "same"),
        ("GlobalNetworkPolicy", {"selector": "all()", "performanceHints": ["a"]}, "spec.performanceHints", "replaced"),
        ("GlobalNetworkPolicy", {"namespaceSelector": "a ="}, "spec.namespaceSelector", "same"),
        ("GlobalNetworkPolicy", {"selector": "a ="}, "spec.selector", "same"),
        ("GlobalNetworkPolicy", {"order": "first"}, "spec.order", "same"),
        ("GlobalNetworkPolicy", {"tier": "mine"}, "spec.tier", "differs"),
        (
            "NetworkPolicy", {"ingress": [{"action": "Deny", "source": {"domains": ["a.example"]}}]},
            "spec.ingress[0].source.domains", "differs",
        ),
        (
            "NetworkPolicy", {"ingress": [{"action": "Allow", "http": {"methods": ["GET"]}}]},
            "spec.ingress[0].http", "differs",
        ),
        ("GlobalNetworkSet", {"allowedEgressDomains": ["a"]}, "spec.allowedEgressDomains", "differs"),
        ("Tier", {"order": 1, "defaultAction": "Pass"}, "kind", "differs"),
    ],
)  # fmt: skip
def test_objects(kind: str, spec: Json, field: str | None, outcome: str) -> None:
    answer = report([written(kind, spec, "a", namespace="n")])
    assert outcomes(answer) == {} if field is None else outcomes(answer)[field] == outcome
    assert answer.differs == (outcome == "differs")


def test_networks_of_a_pool_mean_no_pods_any_more() -> None:
    pool = written("IPPool", {"cidr": "10.244.0.0/16"})
    nets = ["192.0.2.0/24", "10.244.3.0/24", "10.0.0.0/8", "0.0.0.0/0"]
    policy = written("GlobalNetworkPolicy", {"ingress": [{"action": "Allow", "source": {"nets": nets}}]})
    kube = written(
        "NetworkPolicy",
        {"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": "10.244.0.0/16"}}]}]},
        version="networking.k8s.io/v1",
        namespace="n",
    )
    assert [field for field, outcome in outcomes(report([pool, policy, kube])).items() if outcome == "differs"] == [
        "spec.ingress[0].source.nets[1]",
        "spec.ingress[0].source.nets[2]",
        "spec.egress[0].to[0].ipBlock.cidr",
    ]
    assert not report([policy, kube]).differs


def test_the_profile_is_that_of_the_calico_that_runs() -> None:
    tier = written("Tier", {"order": 1, "defaultAction": "Pass"}, "mine")
    for version, profile, outcome in (
        ("v3.5.2", "3.5.2", "same"),
        ("v3.26.1", "3.24.5", "same"),
        ("v3.30.0-0.dev", "current", "same"),
        ("", "3.24.5", "differs"),
    ):
        answer = report([written("ClusterInformation", {"calicoVersion": version}), tier])
        assert (answer.profile, answer.objects[-1].outcome) == (profile, outcome), version
        assert answer.configuration == ({} if profile == "3.24.5" else {"compat": profile})
    assert nearest("v4.0") is nearest("")
    ruled = report([written("ClusterInformation", {"calicoVersion": "v3.30.1"}), tier], "3.24.5")
    assert ruled.differs and ruled.profile == "3.24.5"


def test_pods_and_namespaces_count_when_they_ask_calico_for_something() -> None:
    asks = written("Pod", {}, "a", "v1", annotations={"cni.projectcalico.org/ipAddrs": '["10.0.0.1"]'})
    silent = written("Pod", {}, "b", "v1", annotations={"cni.projectcalico.org/podIP": "10.0.0.1"})
    answer = report([asks, silent, written("IPAMHandle", {}), written("BlockAffinity", {})])
    assert [judged.who for judged in answer.objects] == ["Pod a"]
    assert answer.bookkeeping == {"IPAMHandle": 1, "BlockAffinity": 1}


def test_what_calico_s_client_would_refuse_is_not_there_either() -> None:
    refused = written("GlobalNetworkPolicy", {"selector": "a ="}, version="projectcalico.org/v3")
    answer = report([refused])
    assert not answer.differs and "Calico does not take it" in answer.objects[0].findings[0].why


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("1m30s", 90), ("250ms", 0.25), (15, 15), ("2h", 7200)])
def test_durations(text: Json, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "5 s", "s", "1.2.3"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds(text)


@pytest.mark.parametrize("value", ["tcp:0", "tcp:a", "icmp:1", "tcp:70000", [{"port": "x"}], 5, [None]])
def test_what_is_no_port(value: Json) -> None:
    with pytest.raises(ValueError, match="is no "):
        ports(value)


def test_what_is_no_truth() -> None:
    with pytest.raises(ValueError, match="neither"):
        truth("perhaps")


OTHERS = [
    written("FelixConfiguration", {"bpfEnabled": True, "healthPort": 9099, "failsafeInboundHostPorts": []}).raw,
    written("IPPool", {"cidr": "10.244.0.0/16", "natOutgoing": True}).raw,
    written("BGPConfiguration", {"serviceClusterIPs": [{"cidr": "10.0.0.0/16"}]}).raw,
    written("KubeControllersConfiguration", {"controllers": {"node": {"hostEndpoint": {"autoCreate": "x"}}}}).raw,
    written("ClusterInformation", {"calicoVersion": "v3.26.0"}).raw,
    calico_node(BPFENABLED="true").raw,
]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**64), times=st.integers(0, 6))
def test_nothing_that_is_written_stops_it(seed: int, times: int) -> None:
    dice = random.Random(seed)
    raws = [spoiled(manifest, dice, times) for manifest in MANIFESTS + OTHERS]
    answer = report([Written(raw) for raw in raws if isinstance(raw, dict)])
    assert all(finding.why for judged in answer.objects for finding in judged.findings)
    assert JUNK
