"""Sockets of the living are respected, those of the dead removed."""

import os
import socket
import stat
from pathlib import Path

import pytest

from shared.errors import Invalid, Refused
from shared.rpc.address import MAX_PATH, check_address, listen, peer_uid


def test_a_path_is_as_long_as_the_kernel_allows(tmp_path: Path) -> None:
    room = MAX_PATH - len(os.fsencode(tmp_path)) - 1
    listen(tmp_path / ("x" * room)).close()
    with pytest.raises(Invalid, match=f"has 108 bytes; .* at most {MAX_PATH}"):
        listen(tmp_path / ("x" * (room + 1)))


def test_length_is_counted_in_bytes_not_characters() -> None:
    check_address("/" + "é" * 53)
    with pytest.raises(Invalid, match="109 bytes"):
        check_address("/" + "é" * 54)


@pytest.mark.parametrize("path", ["", "/run/a\0b"])
def test_a_path_names_a_file(path: str) -> None:
    with pytest.raises(Invalid, match="names no file"):
        check_address(path)


def test_only_the_owner_can_reach_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "run" / "x.sock"
    old = os.umask(0)
    try:
        with listen(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(old)


def test_a_dead_listeners_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    listen(path).close()
    assert path.is_socket()
    with listen(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))


def test_a_living_listeners_socket_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with listen(path) as first:
        with pytest.raises(Refused, match=f"another process listens at {path}"):
            listen(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))
            first.accept()[0].close()


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    path.write_text("precious")
    with pytest.raises(Refused, match="is not a socket"):
        listen(path)
    assert path.read_text() == "precious"


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot listen"):
        listen(tmp_path / "file" / "x.sock")


def test_peer_uid() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) == os.getuid()
