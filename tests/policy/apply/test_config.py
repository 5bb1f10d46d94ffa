"""What an operator may set about enforcement, and what the renderer makes of it."""

import msgspec
import pytest

from services.policy.config import PolicyConfig, failsafe
from services.policy.core.nft.settings import FailsafePort, Settings


@pytest.mark.parametrize(
    ("written", "port"),
    [
        ("tcp:22", FailsafePort("tcp", 22)),
        ("UDP:68", FailsafePort("udp", 68)),
        ("tcp:10.0.0.0/8:22", FailsafePort("tcp", 22, "10.0.0.0/8")),
        ("tcp:10.0.0.1:22", FailsafePort("tcp", 22, "10.0.0.1/32")),
        ("udp:[fd00::/8]:53", FailsafePort("udp", 53, "fd00::/8")),
    ],
)
def test_failsafe_ports_as_felix_writes_them(written: str, port: FailsafePort) -> None:
    assert failsafe(written) == port


@pytest.mark.parametrize("written", ["", "22", "tcp", "tcp:", "tcp:ssh", "tcp:0", "tcp:65536", "icmp:8", "tcp:x:22"])
def test_what_is_no_failsafe_port(written: str) -> None:
    with pytest.raises(ValueError, match="failsafe_inbound"):
        PolicyConfig(failsafe_inbound=(written,))


def test_unset_are_felixs_own_and_empty_is_none() -> None:
    assert PolicyConfig().settings() == msgspec.structs.replace(Settings(), usual_links=False, shared_links=("ipvl_",))
    assert FailsafePort("tcp", 22) in PolicyConfig().settings().failsafe_inbound
    assert PolicyConfig(failsafe_inbound=(), failsafe_outbound=("udp:53",)).settings().failsafe_inbound == ()
    assert PolicyConfig(failsafe_outbound=("udp:53",)).settings().failsafe_outbound == (FailsafePort("udp", 53),)


def test_the_rest_reaches_the_renderer() -> None:
    config = PolicyConfig(
        endpoint_to_host_action="DROP", drop_invalid=False, log_prefix="denied", interface_prefixes=("cali", "eth-pod")
    )
    made = config.settings()
    assert (made.endpoint_to_host_action, made.drop_invalid, made.log_prefix) == ("DROP", False, "denied")
    assert made.workload_prefixes == ("cali", "eth-pod")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"gate_s": 0}, "gate_s"),
        ({"gate_s": 19}, "gate_s"),
        ({"refresh_s": 0}, "refresh_s"),
        ({"discovery_s": 0}, "discovery_s"),
        ({"log_prefix": 'a"; drop'}, "log_prefix"),
        ({"log_prefix": "x" * 28}, "log_prefix"),
        ({"interface_prefixes": ()}, "interface_prefixes"),
        ({"interface_prefixes": ('cali"*',)}, "interface_prefixes"),
        ({"http_port": 65536}, "http_port"),
    ],
)
def test_nothing_reaches_a_rule_that_is_not_what_it_should_be(setting: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        msgspec.convert(setting, PolicyConfig)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="gate_s") as refused:
        PolicyConfig(gate_s=0, refresh_s=0)
    assert "refresh_s" in str(refused.value)
