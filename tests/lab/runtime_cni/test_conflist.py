"""What a runtime makes of a configuration list: rules R1-R4, R12, R13 of the specification's runtime side."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compose.lab.runtime_cni.conflist import SUPPORTED, load, parse, stdin_for
from shared.errors import Invalid

PLUGIN = {"type": "terway", "capabilities": {"bandwidth": True, "dns": False}, "mtu": 1400, "odd": {"kept": [1]}}


def conf(**changes: object) -> dict[str, object]:
    return {"cniVersion": "1.0.0", "name": "net", "plugins": [PLUGIN]} | changes


@given(st.sets(st.sampled_from([*SUPPORTED, "0.1.0", "2.0.0"]), min_size=1), st.sampled_from(SUPPORTED))
def test_the_highest_offered_version_that_is_known_is_used(offered: set[str], first: str) -> None:
    network = parse(conf(cniVersion=first, cniVersions=sorted(offered)))
    assert network.version == max((*(offered & set(SUPPORTED)), first), key=SUPPORTED.index)


def test_without_any_known_version_the_list_is_refused() -> None:
    with pytest.raises(Invalid, match="cniVersion"):
        parse(conf(cniVersion="2.0.0"))


def test_a_plugin_gets_its_fields_unchanged_and_only_declared_capabilities() -> None:
    network = parse(conf())
    given_capabilities = {"bandwidth": {"ingressRate": 8}, "dns": {}, "portMappings": []}
    got = stdin_for(network, network.plugins[0], capabilities=given_capabilities, prev_result={"ips": []})
    assert got == {
        "type": "terway",
        "mtu": 1400,
        "odd": {"kept": [1]},
        "cniVersion": "1.0.0",
        "name": "net",
        "runtimeConfig": {"bandwidth": {"ingressRate": 8}},
        "prevResult": {"ips": []},
    }
    assert "prevResult" not in stdin_for(network, network.plugins[0], capabilities={})


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", None, 3])
def test_names_that_could_be_paths_are_refused(name: object) -> None:
    with pytest.raises(Invalid, match="name"):
        parse(conf(name=name))


@pytest.mark.parametrize("kind", ["", "../terway", "a/b", "..", None])
def test_types_that_could_be_paths_are_refused(kind: object) -> None:
    with pytest.raises(Invalid, match=r"plugins\[0\]\.type"):
        parse(conf(plugins=[{"type": kind}]))


def test_plugins_beside_the_list_are_appended_unless_it_forbids(tmp_path: Path) -> None:
    path = tmp_path / "10-net.conflist"
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "20-more.conf").write_text('{"type": "tuning"}')
    path.write_text(json.dumps(conf()))
    assert [plugin["type"] for plugin in load(path).plugins] == ["terway", "tuning"]
    path.write_text(json.dumps(conf(loadOnlyInlinedPlugins=True)))
    assert [plugin["type"] for plugin in load(path).plugins] == ["terway"]
    path.write_text(json.dumps(conf(loadOnlyInlinedPlugins=True, plugins=[])))
    with pytest.raises(Invalid, match="loadOnlyInlinedPlugins"):
        load(path)


@pytest.mark.parametrize(("value", "expected"), [(True, True), ("true", True), ("False", False), (False, False)])
def test_switches_may_be_words(value: object, expected: bool) -> None:
    network = parse(conf(disableCheck=value, disableGC=value))
    assert (network.disable_check, network.disable_gc) == (expected, expected)


def test_a_switch_that_is_neither_is_refused() -> None:
    with pytest.raises(Invalid, match="disableGC"):
        parse(conf(disableGC="maybe"))


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
def test_what_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.conflist"
    path.write_text(text)
    with pytest.raises(Invalid):
        load(path)
