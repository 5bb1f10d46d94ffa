"""Configuration: what is right is taken, and everything that is wrong is said at once, each with its place."""

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import ConfigError, KubeConfig, NodeConfig, load, load_node
from shared.duration import Duration
from shared.errors import SuiteError
from shared.secret import Secret

Write = Callable[[object], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: object) -> Path:
        path = tmp_path / "config.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    low: int = 0
    high: int = 10

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low: expected at most high, {self.high}, got {self.low}\nlow and high contradict")


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    cooldown_s: float = 30.0
    http_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    color: Color = Color.RED
    mode: Literal["fast", "safe"] = "safe"
    limits: Limits = Limits()
    more_limits: list[Limits] = []
    zones: dict[str, list[str]] = {}
    pause: Duration = Duration(1.0)
    key: Secret = Secret()
    file: Path | None = None
    enabled: bool = False
    pair: tuple[str, ...] = ()


def problems(path: Path | None, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(Service, section="ipam", path=path, env=env or {})
    assert isinstance(caught.value, SuiteError)
    assert all(problem in caught.value.message for problem in caught.value.problems)
    return caught.value.problems


def test_everything_at_once_each_with_its_place(write: Write) -> None:
    path = write(
        {
            "ipam": {
                "cooldown_s": "x",
                "http_port": 70000,
                "colour": "red",
                "color": "green",
                "mode": "quick",
                "limits": {"low": 20},
                "more_limits": [{}, {"high": "much"}, 7],
                "zones": {"a": ["x"], "b": "y", "c": [1]},
                "pause": "soon",
                "enabled": "yes",
                "file": 5,
                "pair": "x",
            },
            "ipma": {},
        }
    )
    source = f" (file {path})"
    assert problems(path) == [
        f"ipma: no such section; did you mean ipam?{source}",
        f"ipam.colour: no such setting; did you mean color?{source}",
        f"ipam.name: must be set{source}",
        f"ipam.cooldown_s: expected float, got str 'x'{source}",
        f"ipam.http_port: expected int <= 65535, got int 70000{source}",
        f"ipam.color: expected one of red, blue, got str 'green'{source}",
        f"ipam.mode: expected one of fast, safe, got str 'quick'{source}",
        f"ipam.limits.low: expected at most high, 10, got 20{source}",
        f"ipam.limits: low and high contradict{source}",
        f"ipam.more_limits[1].high: expected int, got str 'much'{source}",
        f"ipam.more_limits[2]: expected object, got int 7{source}",
        f"ipam.zones.b: expected array, got str 'y'{source}",
        f"ipam.zones.c[0]: expected str, got int 1{source}",
        f"ipam.pause: expected a duration such as 120s or 1h30m, got str 'soon'{source}",
        f"ipam.file: expected str, got int 5{source}",
        f"ipam.enabled: expected bool, got str 'yes'{source}",
        f"ipam.pair: expected array, got str 'x'{source}",
    ]


def test_what_is_right_is_taken(write: Write) -> None:
    path = write(
        {
            "ipam": {
                "name": "n",
                "cooldown_s": 5,
                "color": "blue",
                "limits": {"high": 3},
                "more_limits": [{"low": 1}],
                "zones": {"a": ["x"]},
                "pause": "1m30s",
                "key": "k",
                "file": "/etc/x",
                "pair": ["a", "b"],
            },
            "policy": {"anything": "is another reader's to judge"},
        }
    )
    assert load(Service, section="ipam", path=path, env={}) == Service(
        name="n",
        cooldown_s=5.0,
        color=Color.BLUE,
        limits=Limits(0, 3),
        more_limits=[Limits(1, 10)],
        zones={"a": ["x"]},
        pause=Duration(90.0),
        key=Secret("k"),
        file=Path("/etc/x"),
        pair=("a", "b"),
    )


def test_no_file_and_no_section_mean_defaults(write: Write) -> None:
    assert load(Limits, section="ipam", path=None, env={}) == Limits()
    assert load(Limits, section="ipam", path=write({}), env={}) == Limits()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ('{"ipam": {"name": "\xff"}', "not JSON"),
        ("[1]", r"expected an object with sections, got array \[1\]"),
        ('{"ipam": 5}', "ipam: expected an object, got int 5"),
        ('{"ipam": null}', "ipam: expected an object, got null"),
    ],
)
def test_a_file_that_is_no_configuration(write: Write, content: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(Limits, section="ipam", path=write(content), env={})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}/none.json: No such file"):
        load(Limits, section="ipam", path=tmp_path / "none.json", env={})


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("NAME", "plain", "name", "plain"),
        ("NAME", "123", "name", "123"),
        ("NAME", '"quoted"', "name", "quoted"),
        ("COOLDOWN_S", "2.5", "cooldown_s", 2.5),
        ("ENABLED", "true", "enabled", True),
        ("COLOR", "blue", "color", Color.BLUE),
        ("LIMITS", '{"high": 4}', "limits", Limits(0, 4)),
        ("ZONES", '{"a": ["b"]}', "zones", {"a": ["b"]}),
        ("PAUSE", "2m", "pause", 120.0),
        ("KEY", "12345", "key", Secret("12345")),
        ("FILE", "/etc/y", "file", Path("/etc/y")),
        ("FILE", "null", "file", None),
    ],
)
def test_the_environment_overrides_the_file(write: Write, variable: str, text: str, field: str, value: Any) -> None:
    path = write({"ipam": {"name": "n", "cooldown_s": 1, "file": "/etc/x"}})
    loaded = load(Service, section="ipam", path=path, env={f"TERWAY_IPAM_{variable}": text, "PATH": "/bin"})
    assert getattr(loaded, field) == value


def test_problems_of_the_environment_name_the_variable(write: Write) -> None:
    env = {
        "TERWAY_IPAM_COOLDOWN_S": "long",
        "TERWAY_IPAM_NAMES": "x",
        "TERWAY_IPAM_LIMITS": '{"low": "x", "hihg": 1}',
        "TERWAY_GC_RULES": "true",
    }
    assert problems(write({"ipam": {"name": "n"}}), env) == [
        "TERWAY_IPAM_NAMES: no such setting; did you mean TERWAY_IPAM_NAME? (environment)",
        "ipam.cooldown_s: expected float, got str 'long' (environment TERWAY_IPAM_COOLDOWN_S)",
        "ipam.limits.hihg: no such setting; did you mean high? (environment TERWAY_IPAM_LIMITS)",
        "ipam.limits.low: expected int, got str 'x' (environment TERWAY_IPAM_LIMITS)",
    ]


def test_a_file_problem_that_the_environment_overrides_is_none(write: Write) -> None:
    path = write({"ipam": {"name": 5}})
    assert load(Service, section="ipam", path=path, env={"TERWAY_IPAM_NAME": "n"}).name == "n"


def test_a_secret_is_in_no_message(write: Write) -> None:
    [problem] = problems(write({"ipam": {"name": "n", "key": ["hunter2"]}}))
    assert "hunter2" not in problem and problem.startswith("ipam.key: expected str, got something else")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(Service.__struct_fields__), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(Service.__struct_fields__), json_values))
def test_any_json_is_taken_or_refused(given_section: dict[str, Any]) -> None:
    """Never another exception, and never a half-typed result."""
    env = {f"TERWAY_IPAM_{name.upper()}": json.dumps(value) for name, value in given_section.items()}
    try:
        loaded = load(Service, section="ipam", path=None, env=env)
    except ConfigError as error:
        assert error.problems
    else:
        assert isinstance(loaded.name, str)
        assert isinstance(loaded.cooldown_s, float)
        assert isinstance(loaded.limits, Limits)
        assert all(isinstance(each, Limits) for each in loaded.more_limits)
        assert isinstance(loaded.key, Secret)


def test_node(write: Write) -> None:
    path = write({"node": {"run_dir": "/r", "state_dir": "/s", "log_level": "debug", "kube": {"server": "http://k"}}})
    node = load_node(path, {"NODE_NAME": "node1"})
    assert node == NodeConfig(
        run_dir=Path("/r"),
        state_dir=Path("/s"),
        node_name="node1",
        log_level="debug",
        kube=KubeConfig(server="http://k"),
    )
    assert node.socket("gateway") == Path("/r/gateway.sock")
    assert node.lock("ipam") == Path("/r/ipam.lock")
    assert node.database("ipam") == Path("/s/ipam.sqlite")
    assert node.spool == Path("/s/spool")


def test_the_nodes_name_in_the_file_wins_over_kubernetes_variable_but_not_over_ours(write: Write) -> None:
    path = write({"node": {"node_name": "file"}})
    assert load_node(path, {"NODE_NAME": "pod"}).node_name == "file"
    assert load_node(path, {"NODE_NAME": "pod", "TERWAY_NODE_NODE_NAME": "ours"}).node_name == "ours"


def test_bad_kube_access(write: Write) -> None:
    path = write({"node": {"log_level": "loud", "kube": {"server": "k:6443"}}})
    with pytest.raises(ConfigError) as caught:
        load_node(path, {})
    assert caught.value.problems == [
        f"node.log_level: expected one of debug, info, warning, error, got str 'loud' (file {path})",
        f"node.kube.server: expected http://… or https://…, got 'k:6443' (file {path})",
    ]
    with pytest.raises(ConfigError, match=r"node\.kube: cert_file and key_file belong together"):
        load_node(write({"node": {"kube": {"cert_file": "/x"}}}), {})
