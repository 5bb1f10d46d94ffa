"""What can be set, by file and by Terway's own variables; every problem at once."""

import json

import pytest

from services.eni_manager.config import read
from services.eni_manager.core.wiring.symmetric import Marking
from shared.config import ConfigError


@pytest.fixture
def file(tmp_path):
    def written(**sections):
        path = tmp_path / "node.json"
        path.write_text(json.dumps(sections))
        return path

    return written


def test_defaults_need_no_file():
    settings = read(None, {})
    assert settings.own.mode == "shared-veth"
    assert settings.own.mtu == 1500
    assert settings.own.metadata_url == "http://100.100.100.200"


def test_terways_variables_are_second_names(file):
    env = {"ECS_ENDPOINT": "http://ecs", "VPC_ENDPOINT": "http://vpc", "ALICLOUD_CLIENT_SCHEME": "HTTP"}
    own = read(file(eni_manager={"ecs_endpoint": "x"}), env).own
    assert (own.ecs_endpoint, own.vpc_endpoint, own.scheme) == ("http://ecs", "http://vpc", "HTTP")
    assert read(None, {**env, "TERWAY_ENI_MANAGER_ECS_ENDPOINT": "http://ours"}).own.ecs_endpoint == "http://ours"
    assert read(None, {"ALICLOUD_ENDPOINT_TYPE": "public"}).own.endpoint_type == "public"


@pytest.mark.parametrize(
    ("own", "eni", "wanted"), [(None, None, True), (False, None, False), (None, False, False), (False, True, True)]
)
def test_terways_key_of_symmetric_routing_counts_before_ours(file, own, eni, wanted):
    given = [{} if value is None else {"symmetric_routing": value} for value in (own, eni)]
    assert read(file(eni_manager=given[0], eni_conf=given[1]), {}).symmetric_routing is wanted


def test_symmetric_routing_by_other_marks(file):
    given = {"interface": "bond0", "mark": 32, "mask": 48, "table_id": 77, "rule_priority": 700, "backend": "nftables"}
    marking = read(file(eni_conf={"symmetric_routing_config": given}), {}).marking
    assert marking == Marking("bond0", 32, 48, 77, 700)
    wrong = {"mark": 32, "rule_priority": 100, "table": 7}
    with pytest.raises(ConfigError) as raised:
        read(file(eni_conf={"symmetric_routing_config": {"backend": "ebtables"}}), {})
    assert "eni_conf.symmetric_routing_config.backend: expected one of" in str(raised.value)
    with pytest.raises(ConfigError) as raised:
        read(file(eni_conf={"symmetric_routing_config": wrong}), {})
    assert "eni_conf.symmetric_routing_config.table: " in str(raised.value), "Terway's is table_id"
    with pytest.raises(ConfigError) as raised:
        read(file(eni_conf={"symmetric_routing_config": {"mark": 32, "rule_priority": 100}}), {})
    assert [problem.split(": ")[0] for problem in raised.value.problems] == [
        "eni_conf.symmetric_routing_config.mark",
        "eni_conf.symmetric_routing_config.rule_priority",
    ]


def test_ranges_that_see_pods_own_addresses_are_networks(file):
    with pytest.raises(ConfigError, match=r"no_masquerade: '10\.0\.0\.1/8' is no network"):
        read(file(eni_manager={"no_masquerade": ["172.16.0.0/12", "10.0.0.1/8"]}), {})


def test_every_problem_of_both_sections_at_once(file):
    path = file(
        eni_manager={"mode": "exclusive-eni", "mtu": 9, "http_prot": 1, "gather_s": "x"},
        eni_conf={"ip_stack": "dual", "max_eni": -1},
    )
    with pytest.raises(ConfigError) as raised:
        read(path, {})
    said = "\n".join(raised.value.problems)
    for word in ("http_prot", "did you mean http_port", "gather_s", "max_eni"):
        assert word in said


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"mode": "exclusive-eni"},
            "eni_manager.mode: exclusive-eni is not among allowed_modes (shared-veth, vpc-route)",
        ),
        ({"allowed_modes": ["vpc-route"]}, "eni_manager.mode: shared-veth is not among allowed_modes (vpc-route)"),
        ({"allowed_modes": ["ipvlan"]}, "eni_manager.allowed_modes[0]"),
        ({"mtu": 9}, "eni_manager.mtu: expected 576 to 9000, got 9"),
        ({"scheme": "ftp"}, "eni_manager.scheme: expected http or https"),
        ({"endpoint_type": "inner"}, "eni_manager.endpoint_type: expected vpc or public"),
        ({"metadata_url": "100.100.100.200"}, "eni_manager.metadata_url: expected http://"),
        ({"http_port": 70000}, "eni_manager.http_port: expected 0 to 65535"),
        ({"gather_s": -1}, "eni_manager.gather_s: expected 0 or more"),
        ({"call_timeout_s": 0}, "eni_manager.call_timeout_s: expected more than 0"),
    ],
)
def test_a_value_out_of_range_is_named(file, given, says):
    with pytest.raises(ConfigError) as raised:
        read(file(eni_manager=given), {})
    assert says in "\n".join(raised.value.problems)


def test_pods_with_enis_of_their_own_need_the_services_range(file):
    own = {"mode": "exclusive-eni", "allowed_modes": ["exclusive-eni"]}
    with pytest.raises(ConfigError) as raised:
        read(file(eni_manager=own), {})
    assert "eni_conf.service_cidr: mode exclusive-eni needs the Services' range" in "\n".join(raised.value.problems)
    settings = read(file(eni_manager=own, eni_conf={"service_cidr": "172.21.0.0/20,fc00::/112"}), {})
    assert settings.host_stack == ("172.21.0.0/20", "fc00::/112", "169.254.20.10/32")
    more = {**own, "host_stack_cidrs": ["10.9.0.0/16", "172.21.0.0/20"]}
    settings = read(file(eni_manager=more, eni_conf={"service_cidr": "172.21.0.0/20"}), {})
    assert settings.host_stack == ("172.21.0.0/20", "10.9.0.0/16")
    with pytest.raises(ConfigError, match=r"host_stack_cidrs: '10\.9\.0\.1/16' is no network"):
        read(file(eni_manager={"host_stack_cidrs": ["10.9.0.1/16"]}), {})


def test_dual_stack_is_taken_and_ipv6_alone_refused(file):
    assert read(file(eni_conf={"ip_stack": "dual"}), {}).eni.ip_stack == "dual"
    with pytest.raises(ConfigError, match=r"ip_stack.*ipv6"):  # as in Terway, IPv6 alone is refused
        read(file(eni_conf={"ip_stack": "ipv6"}), {})
