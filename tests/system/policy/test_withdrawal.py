"""`off` takes a table away while packets are between its rules: none of them is lost."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from services.policy.adapters.kernel import take_away
from tests.system.policy.bench import Bench, bench

pytestmark = pytest.mark.system

ROUNDS = 20
TABLE = """table inet terway {
    map to-pod { type ifname : verdict; elements = { "lo" : jump ok }; }
    chain ok { accept; }
    chain out { type filter hook output priority 0; oifname vmap @to-pod; drop; }
}"""
SENDER = """
import signal, socket
one, sent, over = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0, []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
one.connect(("127.0.0.1", 9))
print("begun", flush=True)
while not over:
    try:
        one.send(b"x")
        sent += 1
    except PermissionError:  # what an output rule drops, a sender is told
        print("dropped", flush=True)
    except ConnectionRefusedError:
        pass
print(sent)
"""


@pytest.fixture
def made() -> Iterator[Bench]:
    with bench() as found:
        subprocess.run(["ip", "-n", found.name, "link", "set", "lo", "up"], check=True)
        yield found


def _receiver() -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("127.0.0.1", 9))
    return one


def test_no_packet_under_way_is_lost(made: Bench) -> None:
    held = made.do(_receiver)
    argv = ["ip", "netns", "exec", made.name, sys.executable, "-ISc", SENDER]
    with held, subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as sender:
        assert sender.stdout is not None
        try:
            assert sender.stdout.readline() == "begun\n"
            for _ in range(ROUNDS):
                made.nft(TABLE)
                assert made.do(lambda: take_away("terway"))
                assert "terway" not in made.nft("list", "tables")
        finally:
            sender.terminate()
        said = sender.stdout.read().split()
    assert said.count("dropped") == 0
    assert int(said[-1]) > 1000 * ROUNDS, "many packets each time"
