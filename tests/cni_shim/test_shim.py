"""The exec'd half by itself: what it imports, where it runs, and its own small decisions."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cni_shim import alone, install, shim
from services.cni_shim.config import Deadlines
from services.cni_shim.core.frame import CONFIG_LIMIT, read_call
from services.cni_shim.core.request import REQUIRED
from services.cni_shim.core.spec import SUPPORTED, Code

SOURCES = [Path(str(module.__file__)) for module in (shim, alone)]
ALLOWED = {"posix", "_socket"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("shim")
    return install.install(where, socket=where / "no.sock", spool=where / "spool", deadlines=Deadlines())


def test_imports_only_what_every_interpreter_has_built_in() -> None:
    imported = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            assert not isinstance(node, ast.ImportFrom)
            assert not (isinstance(node, ast.Name) and node.id == "__import__")
    assert imported == ALLOWED


@pytest.mark.parametrize("command", ["ADD", "DEL", "VERSION", "STATUS", ""])
def test_loads_nothing_else_at_run_time(installed: Path, tmp_path: Path, command: str) -> None:
    nothing = tmp_path / "nothing"
    nothing.touch()
    assert imports_of(installed, command) - imports_of(nothing, command) <= ALLOWED
    assert imports_of(installed, command) >= ALLOWED


def imports_of(file: Path, command: str) -> set[str]:
    env = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_PATH": "/x"}
    run = subprocess.run(
        [sys.executable, "-ISE", "-v", str(file)],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in run.stderr
    return set(re.findall(r"^import '?([\w.]+)'?", run.stderr, re.MULTILINE))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_is_python_3_6(source: Path) -> None:
    ast.parse(source.read_text(), feature_version=(3, 6))


def test_first_line_isolates_it(installed: Path) -> None:
    assert installed.read_text().splitlines()[0] == "#!/usr/bin/python3 -ISE"


def test_agrees_with_the_gateway() -> None:
    assert tuple(version.decode() for version in alone.SUPPORTED) == SUPPORTED
    assert set(alone.COMMANDS) == set(shim.DEADLINES) == {command.encode() for command in REQUIRED}
    assert shim.STDIN_LIMIT == CONFIG_LIMIT
    assert alone.TRY_LATER == Code.TRY_LATER
    assert alone.BAD_ENVIRONMENT == Code.BAD_ENVIRONMENT
    assert alone.IO_FAILURE == Code.IO_FAILURE
    assert alone.BAD_CONFIG == Code.BAD_CONFIG
    assert alone.NOT_AVAILABLE == Code.NOT_AVAILABLE


texts = st.text(st.characters(codec="utf-8"), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | st.just("cniVersion") | st.just('{"cniVersion": "6.6.6"}'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.just("cniVersion"), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(texts, values, max_size=4), st.sampled_from(SUPPORTED), st.booleans(), st.integers(0, 3))
def test_finds_the_top_level_version_in_any_json(
    rest: dict[str, object], version: str, ascii_only: bool, indent: int
) -> None:
    rest.pop("cniVersion", None)
    document = {**rest, "cniVersion": version, "prevResult": {"cniVersion": "9.9.9"}}
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent or None).encode()
    assert alone.version_in(text) == version.encode()


@given(st.dictionaries(texts, values, max_size=4))
def test_finds_no_version_where_there_is_none(document: dict[str, object]) -> None:
    document.pop("cniVersion", None)
    assert alone.version_in(json.dumps(document).encode()) == b""


@given(st.binary(max_size=200))
def test_errors_are_json_whatever_the_message_and_the_configuration(noise: bytes) -> None:
    said = json.loads(alone.error(11, noise.decode("latin-1"), noise))
    assert said["code"] == 11 and said["cniVersion"] in SUPPORTED
    assert json.loads(alone.version(noise))["supportedVersions"] == list(SUPPORTED)


@pytest.mark.parametrize("bad", ['1"0', "1 0", "\u00e4", "\\u0031.0.0"])
def test_a_strange_version_is_not_repeated(bad: str) -> None:
    assert alone.version_in(json.dumps({"cniVersion": bad}).encode()) == b""


@given(
    st.dictionaries(st.sampled_from([b"CNI_ARGS", b"CNI_PATH", b"CNI_NETNS"]), st.binary(max_size=9)),
    st.binary(max_size=50),
    st.sampled_from(["none", 7, -2]),
)
def test_the_gateway_reads_what_the_shim_writes(env: dict[bytes, bytes], stdin: bytes, netns: object) -> None:
    env = {name: value.replace(b"\0", b"") for name, value in env.items()}
    frame = shim.request(netns, 60, env, stdin)
    call = read_call(frame)
    assert call is not None
    assert call.stdin == stdin and call.deadline_s == 60
    assert call.netns == (None if netns == "none" else netns)
    assert call.env == {n.decode(): v.decode("utf-8", "backslashreplace") for n, v in env.items()}


def test_a_note_is_whole_or_not_there(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    alone.write_note(bytes(spool), b"x" * 100_000)
    (note,) = spool.iterdir()
    assert note.suffix == ".del" and note.read_bytes() == b"x" * 100_000
    assert note.stat().st_mode & 0o777 == 0o600 and spool.stat().st_mode & 0o777 == 0o700


def test_a_note_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10));"
        f"from services.cni_shim import alone; alone.write_note({bytes(tmp_path)!r}, b'x' * 100)"
    )
    run = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False)
    assert "File too large" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_opened_is_an_errno(tmp_path: Path) -> None:
    assert shim.hold(bytes(tmp_path / "none")) == -2
    assert shim.hold(b"") == "none"
    held = shim.hold(bytes(tmp_path))
    assert isinstance(held, int) and held > 0
    os.close(held)
