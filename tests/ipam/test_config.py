import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from services.ipam.config import IpamConfig, read
from shared.config import ConfigError


def write(path: Path, document: object) -> Path:
    path.write_bytes(msgspec.json.encode(document))
    return path


def test_defaults() -> None:
    settings = read(None, {})
    assert settings.ipam == IpamConfig()
    assert (settings.eni_conf.min_pool_size, settings.eni_conf.max_pool_size) == (0, 5)


def test_both_sections_and_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", {"ipam": {"cooldown_s": 7}, "eni_conf": {"max_pool_size": 9}})
    settings = read(path, {"TERWAY_IPAM_HTTP_PORT": "0"})
    assert (settings.ipam.cooldown_s, settings.ipam.http_port, settings.eni_conf.max_pool_size) == (7.0, 0, 9)


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    ipam = {"cooldown_s": -1, "http_port": 70000, "watch_wait_s": 61, "garbage_period_s": 0}
    path = write(tmp_path / "config.json", {"ipam": ipam, "eni_conf": {"max_pool_size": -5}})
    with pytest.raises(ConfigError) as failed:
        read(path, {})
    text = "\n".join(failed.value.problems)
    for expected in (
        "ipam.http_port: expected 0 to 65535, got 70000",
        "ipam.cooldown_s: expected 0 or more, got -1",
        "ipam.watch_wait_s: expected more than 0 and at most 60, got 61",
        "ipam.garbage_period_s: expected more than 0, got 0",
        "eni_conf.max_pool_size: expected 0 or more, got -5",
    ):
        assert expected in text


def test_the_program_says_what_is_wrong_and_exits_2(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", {"ipam": {"cooldown": 3}})
    done = subprocess.run(
        [sys.executable, "-m", "services.ipam", "--config", path],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("TERWAY_")},
    )
    assert done.returncode == 2
    assert "ipam: configuration: ipam.cooldown" in done.stderr
    assert "did you mean cooldown_s?" in done.stderr
