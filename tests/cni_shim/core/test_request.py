"""CNI_* and stdin to a request: properties; the single rules are in tests/cni, through the process."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cni_shim.core.request import REQUIRED, Add, Check, Del, Gc, Status, parse, stated_version
from services.cni_shim.core.spec import CODES, SUPPORTED, CniError, Code, at_least, told
from shared.errors import BY_CODE, Exhausted
from shared.model import AttachmentKey, PodKey

ENV = {
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
}
CONFIG = {"cniVersion": "1.1.0", "name": "terway", "type": "terway"}


def read(command: str, config: Any = CONFIG, **env: str) -> Any:
    return parse({**ENV, "CNI_COMMAND": command, **env}, json.dumps(config).encode())


def test_one_request_per_command() -> None:
    key = AttachmentKey("terway", "c1", "eth0")
    added = read("ADD")
    assert isinstance(added, Add)
    assert (added.key, added.pod, added.annotations, added.bandwidth) == (key, PodKey("shop", "web-0"), None, None)
    deleted = read("DEL", CNI_NETNS="")
    assert isinstance(deleted, Del) and deleted.key == key and deleted.netns == ""
    assert isinstance(read("CHECK", {**CONFIG, "prevResult": {}}), Check)
    assert isinstance(read("STATUS"), Status)
    collected = read("GC", {**CONFIG, "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]})
    assert isinstance(collected, Gc) and collected.valid == {("a", "eth0")}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    [
        "cniVersion", "name", "type", "runtimeConfig", "prevResult", "ipam", "dns", "ipMasq", "mtu", "host_stack_cidrs",
        "disable_host_peer", "cni.dev/valid-attachments", "cni.dev/attachments",
    ]
)  # fmt: skip


@given(st.sampled_from([*REQUIRED, "VERSION", ""]), st.dictionaries(keys, json_values))
def test_any_json_gives_a_request_or_a_cni_error(command: str, config: dict[str, Any]) -> None:
    try:
        read(command, {**CONFIG, **config})
    except CniError as error:
        assert error.message and error.code in Code


@given(st.binary(max_size=60), st.dictionaries(st.sampled_from([*ENV, "CNI_NETNS_OVERRIDE"]), st.text(max_size=20)))
def test_any_bytes_give_a_request_or_a_cni_error(stdin: bytes, env: dict[str, str]) -> None:
    for command in REQUIRED:
        try:
            parse({**ENV, **env, "CNI_COMMAND": command}, stdin)
        except CniError as error:
            assert error.message
    assert stated_version(stdin) in SUPPORTED


@given(st.permutations(["K8S_POD_NAME=web-0", "K8S_POD_NAMESPACE=shop", "K8S_POD_UID=u", "IgnoreUnknown=1", "Z=1"]))
def test_cni_args_in_any_order(pairs: list[str]) -> None:
    request = read("ADD", CNI_ARGS=";".join(pairs))
    assert (str(request.pod), request.pod_uid) == ("shop/web-0", "u")


@pytest.mark.parametrize("version", SUPPORTED)
def test_errors_are_told_in_the_configurations_version(version: str) -> None:
    assert stated_version(json.dumps({"cniVersion": version}).encode()) == version
    assert stated_version(b'{"cniVersion": "0.1.0"}') == stated_version(b"[]") == SUPPORTED[-1]


def test_versions_are_ordered_by_age_not_by_letters() -> None:
    assert at_least("1.0.0", "0.4.0") and not at_least("0.3.1", "0.4.0") and at_least("0.4.0", "0.4.0")


def test_every_error_of_ours_has_a_cni_code() -> None:
    assert CODES.keys() == BY_CODE.keys()
    assert told(Exhausted("no address")).code == Code.TRY_LATER
    reserved = {int(code) for code in CODES.values() if code < 100}
    assert reserved <= {7, 11}
