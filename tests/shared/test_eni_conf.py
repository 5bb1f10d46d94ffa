"""Terway's eni_conf: its own examples as they are, its defaults and checks, and the places where ours are stricter."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.backoff import TABLE, Backoff, with_overrides
from shared.config import ConfigError
from shared.eni_conf import EniConf, ExtraRoute, Tag, load_eni_conf, merge_patch
from shared.secret import Secret

# terway.md §2.2, "Example as documented in 2020"
EXAMPLE_2020 = """
{ "version": "1", "max_pool_size": 25, "min_pool_size": 10,
  "vswitches": {"cn-shanghai-f": ["vsw-AAA", "vsw-BBB"]},
  "service_cidr": "172.21.0.0/20", "security_group": "sg-CCC" }
"""

# Every key of terway.md §2.2, each with a value of its type, and symmetric_routing*, which are in §2.3.
EVERY_KEY = """
{ "version": "1", "access_key": "LTAI5t", "access_secret": "xyz", "region_id": "cn-shanghai",
  "credential_path": "/var/addon/token-config", "service_cidr": "172.21.0.0/20,fc00::/112",
  "vswitches": {"cn-shanghai-f": ["vsw-a"], "cn-shanghai-g": []}, "eni_tags": {"team": "net"},
  "max_pool_size": 6, "min_pool_size": 0, "min_eni": 0, "max_eni": 3, "eni_cap_ratio": 1, "eni_cap_shift": -1,
  "prefix": "", "security_group": "sg-a", "security_groups": ["sg-b", "sg-a"],
  "vswitch_selection_policy": "random", "eni_selection_policy": "least_ips", "ip_stack": "dual",
  "enable_eni_trunking": true, "enable_erdma": false, "custom_stateful_workload_kinds": ["CloneSet"],
  "ipam_type": "preferCRD", "eni_cap_policy": "", "enable_eip_pool": "true", "allow_eip_rob": "true",
  "enable_eip_migrate": true, "hot_plug": "false",
  "backoff_override": {"eni_ops": {"Duration": 5000000000, "Factor": 2, "Jitter": 0.3, "Steps": 6}},
  "extra_routes": [{"dst": "10.0.0.0/8"}], "disable_device_plugin": true, "eni_tag_filter": {"owner": "terway"},
  "eni_tag_block_list": [{"key": "k", "value": "v"}], "kube_client_qps": 10, "kube_client_burst": 20,
  "resource_group_id": "rg-x", "rate_limit": {"AttachNetworkInterface": 500}, "enable_patch_pod_ips": false,
  "ip_pool_sync_period": "60s", "ip_warm_up_size": 4, "idle_ip_reclaim_after": "30m",
  "idle_ip_reclaim_interval": "5m", "idle_ip_reclaim_batch_size": 10, "idle_ip_reclaim_jitter_factor": "0.2",
  "enable_ip_prefix": true, "ipv4_prefix_count": 2, "ipv6_prefix_count": 1,
  "symmetric_routing": true, "symmetric_routing_config": {"interface": "eth0", "mark": 16, "mask": 16, "table_id": 100,
  "rule_priority": 600, "comment": "terway-symmetric", "backend": "iptables"} }
"""

Load = Callable[..., EniConf]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load an eni_conf object (or its JSON text) as section of a node's file."""

    def load(content: object, env: dict[str, str] | None = None) -> EniConf:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"eni_conf": json.loads(content) if isinstance(content, str) else content}))
        return load_eni_conf(path, env or {})

    return load


def test_the_example_of_2020(load: Load) -> None:
    assert load(EXAMPLE_2020) == EniConf(
        version="1",
        max_pool_size=25,
        min_pool_size=10,
        vswitches={"cn-shanghai-f": ["vsw-AAA", "vsw-BBB"]},
        service_cidr="172.21.0.0/20",
        security_group="sg-CCC",
    )


def test_every_key(load: Load) -> None:
    conf = load(EVERY_KEY)
    assert set(json.loads(EVERY_KEY)) == set(EniConf.__struct_fields__), "the table's keys, no more and no less"
    unchanged = [name for name in EniConf.__struct_fields__ if getattr(conf, name) == getattr(EniConf(), name)]
    assert unchanged == [
        "version", "min_pool_size", "min_eni", "eni_cap_ratio", "prefix", "enable_erdma", "eni_cap_policy",
    ]  # fmt: skip
    assert conf.access_secret == Secret("xyz")
    assert conf.all_security_groups == ("sg-a", "sg-b")
    assert conf.service_cidrs == ("172.21.0.0/20", "fc00::/112")
    assert conf.extra_routes == [ExtraRoute("10.0.0.0/8")]
    assert conf.eni_tag_block_list == (Tag("k", "v"),)
    assert (conf.ip_pool_sync_period, conf.idle_ip_reclaim_after, conf.idle_ip_reclaim_interval) == (
        60.0,
        1800.0,
        300.0,
    )
    assert conf.backoff_override == {"eni_ops": TABLE["eni_ops"]}


def test_the_defaults_of_the_table() -> None:
    conf = EniConf()
    assert (conf.vswitch_selection_policy, conf.eni_selection_policy, conf.ip_stack) == ("ordered", "most_ips", "ipv4")
    assert (conf.eni_cap_ratio, conf.eni_cap_shift, conf.max_pool_size, conf.min_pool_size) == (1, 0, 5, 0)
    assert (conf.ip_pool_sync_period, conf.idle_ip_reclaim_interval, conf.idle_ip_reclaim_after) == (120.0, 600.0, None)
    assert (conf.idle_ip_reclaim_batch_size, conf.idle_ip_reclaim_jitter_factor) == (5, "0.1")
    assert conf.enable_patch_pod_ips and conf.ip_warm_up_size is None
    assert {(tag.key, tag.value) for tag in conf.eni_tag_block_list} == {
        ("creator", "alibabacloud-erdma-controller"),
        ("terway.alibabacloud.com/excluded", "true"),
    }


def test_no_configuration_at_all(load: Load) -> None:
    assert load_eni_conf(None, {}) == load({}) == EniConf()


def test_a_mounted_configmap(tmp_path: Path) -> None:
    """The ConfigMap's volume holds the JSON as a file of its own (terway.md §2.1)."""
    mounted, path = tmp_path / "eni.json", tmp_path / "config.json"
    mounted.write_text(EXAMPLE_2020)
    path.write_text(json.dumps({"eni_conf": str(mounted)}))
    assert load_eni_conf(path, {}).max_pool_size == 25
    mounted.write_text('{"ip_stack": "ipv6"}')
    with pytest.raises(ConfigError, match=rf"eni_conf\.ip_stack: expected one of ipv4, dual, .*\(file {mounted}\)"):
        load_eni_conf(path, {})
    for broken in ("[]", "5", '""', "null", "{"):
        mounted.write_text(broken)
        with pytest.raises(ConfigError, match=str(mounted)):
            load_eni_conf(path, {})
    mounted.unlink()
    with pytest.raises(ConfigError, match=f"{mounted}: No such file"):
        load_eni_conf(path, {})


def test_read_as_go_reads(load: Load) -> None:
    """Null is absent, keys have any case, an empty string is the default."""
    conf = load(
        {"Max_Pool_Size": 3, "eni_tags": None, "ip_stack": "", "vswitch_selection_policy": "", "vswitches": None}
    )
    assert conf == EniConf(max_pool_size=3)


def test_an_unknown_key_is_ignored_as_terway_does_but_said(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    assert load({"max_pool_sise": 3, "from_the_future": {}}) == EniConf()
    ignored = [
        getattr(record, "fields", None) for record in caplog.records if record.getMessage() == "eni_conf_key_ignored"
    ]
    assert ignored == [
        {"key": "max_pool_sise", "hint": "did you mean max_pool_size?"},
        {"key": "from_the_future", "hint": ""},
    ]


def test_the_environment_overrides(load: Load) -> None:
    conf = load(EXAMPLE_2020, {"TERWAY_ENI_CONF_MAX_POOL_SIZE": "12", "TERWAY_ENI_CONF_IP_STACK": "dual"})
    assert (conf.max_pool_size, conf.ip_stack, conf.min_pool_size) == (12, "dual", 10)
    with pytest.raises(ConfigError, match="no such setting; did you mean TERWAY_ENI_CONF_IP_STACK"):
        load({}, {"TERWAY_ENI_CONF_IP_STACKS": "dual"})


def test_every_problem_at_once(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            {
                "max_pool_size": "5",
                "min_pool_size": -1,
                "eni_cap_ratio": 0,
                "vswitches": {"y": [""]},
                "eni_tags": {"a": "b", "c": 5},
                "ip_stack": "ipv6",
                "vswitch_selection_policy": "best",
                "service_cidr": "10.0.0.0/16,172.16.0.0/12",
                "security_groups": [f"sg-{number}" for number in range(11)],
                "idle_ip_reclaim_after": "soon",
                "ip_pool_sync_period": "0s",
                "idle_ip_reclaim_batch_size": 11,
                "idle_ip_reclaim_jitter_factor": "1.5",
                "ipv6_prefix_count": 2,
                "kube_client_qps": 20,
                "kube_client_burst": 10,
                "extra_routes": [{"dst": "10.0.0.0/8"}, {"via": "x"}],
                "rate_limit": {"AttachNetworkInterface": 0},
                "backoff_override": {"eni_ops": {"Duration": "x", "Steps": 0}, "eni_create": 5},
                "enable_erdma": "true",
            }
        )
    source = f" (file {tmp_path}/config.json)"
    found = [problem.removesuffix(source) for problem in caught.value.problems]
    assert found == [
        "eni_conf.max_pool_size: expected int, got str '5'",
        "eni_conf.eni_tags.c: expected str, got int 5",
        "eni_conf.ip_stack: expected one of ipv4, dual, got str 'ipv6'",
        "eni_conf.vswitch_selection_policy: expected one of random, ordered, most, got str 'best'",
        "eni_conf.idle_ip_reclaim_after: expected a duration such as 120s or 1h30m, got str 'soon'",
        "eni_conf.extra_routes[1].via: no such setting",
        "eni_conf.extra_routes[1].dst: must be set",
        "eni_conf.backoff_override.eni_ops.Duration: expected a duration such as 5s, or nanoseconds, got 'x'",
        "eni_conf.backoff_override.eni_create: expected an object with Duration, Factor, Jitter, Steps, got int",
        "eni_conf.enable_erdma: expected bool, got str 'true'",
        "eni_conf.min_pool_size: expected 0 or more, got -1",
        "eni_conf.eni_cap_ratio: expected more than 0, got 0",
        "eni_conf.ip_pool_sync_period: expected more than 0 seconds, got 0",
        "eni_conf.idle_ip_reclaim_batch_size: expected 1 to 10, got 11",
        'eni_conf.idle_ip_reclaim_jitter_factor: expected a number from "0.0" to "1.0" in quotes, got \'1.5\'',
        "eni_conf.ipv6_prefix_count: expected 0 or 1, got 2",
        "eni_conf.security_groups: 11 security groups; an ENI takes at most 10",
        "eni_conf.vswitches.y: a vSwitch id is empty",
        "eni_conf.rate_limit.AttachNetworkInterface: expected at least 1 call per minute, got 0",
        "eni_conf.kube_client_burst: set kube_client_qps and kube_client_burst both, burst at least qps",
        "eni_conf.service_cidr: expected at most one IPv4 and one IPv6 range",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"service_cidr": "10.0.0.0/33"}, "service_cidr"),
        ({"extra_routes": [{"dst": "10.0.0.1/8"}]}, r"extra_routes\[0\]\.dst: 10\.0\.0\.1/8 has host bits set"),
        ({"idle_ip_reclaim_jitter_factor": "nan"}, "jitter_factor"),
        ({"idle_ip_reclaim_jitter_factor": 0.1}, "jitter_factor: expected str"),
        ({"idle_ip_reclaim_interval": "-5m"}, "interval: expected more than 0"),
        ({"ip_warm_up_size": -1}, "ip_warm_up_size"),
        ({"kube_client_qps": 5}, "kube_client_burst: set"),
        ({"backoff_override": {"x": {"Duration": -1}}}, "not negative"),
        ({"backoff_override": {"x": {"Steps": 0}}}, "Steps is at least 1"),
        ({"backoff_override": {"x": {"Step": 1}}}, r"backoff_override\.x\.step: no such setting"),
        ({"access_secret": 5}, "access_secret: expected str, got something else"),
    ],
)
def test_refused(load: Load, content: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(content)


@pytest.mark.parametrize(
    ("entry", "backoff"),
    [
        ({"Duration": 5_000_000_000, "Factor": 2, "Jitter": 0.3, "Steps": 6}, Backoff(5.0, 2.0, 0.3, steps=6)),
        ({"duration": "1.5s", "steps": 3}, Backoff(1.5, 1.0, 0.0, steps=3)),
        ({"Duration": "1s", "Factor": 0, "Steps": 2, "Cap": "4s"}, Backoff(1.0, 1.0, 0.0, cap_s=4.0, steps=2)),
    ],
)
def test_backoff_override(load: Load, entry: dict[str, Any], backoff: Backoff) -> None:
    conf = load({"backoff_override": {"wait_eni_status": entry}})
    table = with_overrides(conf.backoff_override)
    assert table["wait_eni_status"] == backoff
    assert {name: each for name, each in table.items() if name != "wait_eni_status"} == {
        name: each for name, each in TABLE.items() if name != "wait_eni_status"
    }


def test_no_secret_is_shown() -> None:
    assert "hunter2" not in repr(EniConf(access_key=Secret("hunter2"), access_secret=Secret("hunter2")))


@pytest.mark.parametrize(
    ("conf", "adapters", "enis"),
    [
        (EniConf(), 4, 3),
        (EniConf(max_eni=2), 4, 2),
        (EniConf(max_eni=9), 4, 3),
        (EniConf(eni_cap_ratio=0.5), 8, 3),
        (EniConf(eni_cap_shift=-2), 4, 1),
        (EniConf(eni_cap_shift=-9), 4, 0),
    ],
)
def test_max_enis(conf: EniConf, adapters: int, enis: int) -> None:
    """terway.md §2.2: int(adapters × ratio) + shift − 1, at most max_eni."""
    assert conf.max_enis(adapters) == enis


@pytest.mark.parametrize(
    ("conf", "bounds"),
    [
        (EniConf(), (0, 5)),
        (EniConf(min_pool_size=10, max_pool_size=25), (10, 25)),
        (EniConf(min_pool_size=10, max_pool_size=250), (10, 30)),
        (EniConf(min_pool_size=100, max_pool_size=250), (30, 30)),
        (EniConf(min_pool_size=10, max_pool_size=5), (5, 5)),
        (EniConf(min_eni=2, min_pool_size=1, max_pool_size=25), (20, 25)),
    ],
)
def test_pool_bounds(conf: EniConf, bounds: tuple[int, int]) -> None:
    """terway.md §2.2, "Normalisation at start", the present rule: a minimum above the maximum is lowered."""
    assert conf.pool_bounds(capacity=30, addresses_per_eni=10) == bounds


def test_what_contradicts_itself_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            {
                "min_pool_size": 6,
                "max_pool_size": 5,
                "min_eni": 3,
                "max_eni": 2,
                "eni_tags": {"team": "net", "keep": "out"},
                "eni_tag_filter": {"keep": "out"},
                "eni_tag_block_list": [{"key": "keep", "value": "out"}],
            }
        )
    assert [problem.partition(" (file")[0] for problem in caught.value.problems] == [
        "eni_conf.eni_tag_filter.keep: eni_tag_block_list has keep=out, too, so that no ENI could be managed; "
        "take one away",
        "eni_conf.eni_tags.keep: eni_tag_block_list has keep=out, too, so that the ENIs that are made would not be "
        "managed; take one away",
        "eni_conf.min_pool_size: 6 is more than max_pool_size, 5; lower it, or raise max_pool_size",
        "eni_conf.min_eni: 3 is more than max_eni, 2; lower it, or raise max_eni",
    ]
    assert load({"min_eni": 3, "max_eni": 0, "min_pool_size": 9}).pool_bounds(capacity=8, addresses_per_eni=4)[1] == 5


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [  # the examples of RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_patch_is_merged_as_the_rfc_says(target: object, patch: object, merged: object) -> None:
    assert merge_patch(target, patch) == merged
