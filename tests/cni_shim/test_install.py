"""Installing the shim."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from services.cni_shim import install, shim
from services.cni_shim.config import Deadlines
from shared.config import NodeConfig


def constants(file: Path) -> dict[str, object]:
    found: dict[str, object] = {"__name__": "not main"}
    exec(compile(file.read_text(), str(file), "exec"), found)
    return {name: found[name] for name in ("SOCKET", "SPOOL", "DEADLINES")}


def test_the_nodes_values_are_in_the_file(tmp_path: Path) -> None:
    config = tmp_path / "node.json"
    config.write_text(
        json.dumps(
            {
                "node": {"run_dir": str(tmp_path / 'r"u\\n'), "state_dir": str(tmp_path / "s")},
                "cni_shim": {"deadlines": {"del": 7}},
            }
        )
    )
    assert install.main(["--bin-dir", str(tmp_path / "bin"), "--config", str(config)], env={}) == 0
    file = tmp_path / "bin" / "terway"
    assert constants(file) == {
        "SOCKET": os.fsencode(tmp_path / 'r"u\\n' / "gateway.sock"),
        "SPOOL": os.fsencode(tmp_path / "s" / "spool"),
        "DEADLINES": {b"ADD": 120, b"DEL": 7, b"CHECK": 60, b"GC": 120, b"STATUS": 10},
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o755
    assert [entry.name for entry in file.parent.iterdir()] == ["terway"]
    assert (tmp_path / "s" / "spool").is_dir()
    run = subprocess.run(
        [file], env={"CNI_COMMAND": "VERSION"}, stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    assert json.loads(run.stdout)["cniVersion"] == "1.1.0"


def test_the_defaults_are_those_of_the_source(tmp_path: Path) -> None:
    node = NodeConfig()
    rendered = tmp_path / "rendered"
    rendered.write_text(install.render(socket=node.socket("gateway"), spool=node.spool, deadlines=Deadlines()))
    assert constants(rendered) == constants(Path(shim.__file__))


def test_replaces_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "terway").write_text("old")
    held = (tmp_path / "terway").open()
    with held:
        install.install(tmp_path, socket=Path("/a"), spool=tmp_path / "spool", deadlines=Deadlines())
        assert held.read() == "old", "whoever has it open keeps the old one"
    assert constants(tmp_path / "terway")["SOCKET"] == b"/a"


def test_bad_configuration_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "node.json"
    config.write_text(json.dumps({"cni_shim": {"deadlines": {"add": 0}, "http_prot": 1}}))
    assert install.main(["--bin-dir", str(tmp_path), "--config", str(config)], env={}) == 2
    said = capsys.readouterr().err
    assert "deadlines.add" in said and "http_port" in said
    assert not (tmp_path / "terway").exists()
