"""`make bench`: what ADD and DEL cost here beside Debian's ptp with host-local, measured side by side.

Both plugins are exec'd in the same way, in a lab node's namespace, each time for a fresh pod namespace, in turns: what
disturbs one disturbs the other. A pause after each call keeps what a plugin does in the background (ours deletes links
there) out of the other's figures. Prints a table and writes build/bench.json; figures of other benches there stay.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compose.lab.layout import Layout, NodeLayout
from compose.lab.runtime_cni.conflist import load, parse, stdin_for

ROUNDS = 60
WARM_UP = 5
PAUSE_S = 0.05
LAB, NODE = "bench", "node1"
PEER_DIR = Path("/usr/lib/cni")
REPORT = Path("build/bench.json")
GOALS = {"add": 0.85, "del": 0.4}
"""Our p50 divided by the peer's is to be at most this."""

Json = dict[str, Any]
Times = dict[str, dict[str, list[float]]]


def main() -> int:
    """Measure in a lab of one node; 0 whatever the figures are."""
    if len(sys.argv) > 1:  # the child, inside the node's namespace
        sys.stdout.write(json.dumps(measure(Layout.of(LAB).node(NODE), json.loads(sys.argv[1]))))
        return 0
    with lab() as node, namespaces(node, 2 * (ROUNDS + WARM_UP)) as fresh:
        inside = ["nsenter", f"--net={node.netns}", sys.executable, "-m", __spec__.name, json.dumps(fresh)]
        times = json.loads(subprocess.run(inside, check=True, stdout=subprocess.PIPE).stdout)
    figures = {command: summary(times[command]) for command in ("add", "del")}
    report(figures)
    print(table(figures))
    return 0


@contextmanager
def lab() -> Iterator[NodeLayout]:
    """A lab of one node whose runtime execs the plugin, with addresses for everybody."""
    cli = [sys.executable, "-m", "services.ctl", "lab"]
    options = ["--nodes", "1", "--runtime", "cni", "--pool", "10:20", "--cooldown", "0", "--log-level", "info"]
    subprocess.run([*cli, "down", "--name", LAB], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*cli, "up", "--name", LAB, *options], check=True, stdout=subprocess.DEVNULL)
    try:
        yield Layout.of(LAB).node(NODE)
    finally:
        subprocess.run([*cli, "down", "--name", LAB], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def namespaces(node: NodeLayout, count: int) -> Iterator[list[str]]:
    """Fresh pod namespaces, removed only at the end: the kernel's work on that would be in the figures."""
    names = [node.pod_netns_name(uuid.uuid4().hex) for _ in range(count)]
    ip_batch(f"netns add {name}" for name in names)
    try:
        yield names
    finally:
        ip_batch(f"netns del {name}" for name in names)


def ip_batch(lines: Iterator[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True)


class Plugin:
    """One contestant: its program and its network configuration."""

    def __init__(self, folder: Path, network: Json) -> None:
        self._folder = folder
        self._program = str(folder / network["type"])
        self._network = network

    def call(self, command: str, netns: str, result: Json | None) -> tuple[float, Json]:
        """Exec it as a runtime would; milliseconds from before the exec until it is reaped, and its result."""
        container = netns.rpartition("-")[2]
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{netns}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self._folder),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=p{container};K8S_POD_UID={container}",
            "PATH": os.environ["PATH"],
        }
        stdin = json.dumps({**self._network, **({"prevResult": result} if result else {})}).encode()
        began = time.perf_counter()
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, in_read, 0), (os.POSIX_SPAWN_DUP2, out_write, 1)]
        pid = os.posix_spawn(self._program, [self._program], env, file_actions=actions)
        os.close(in_read)
        os.close(out_write)
        os.write(in_write, stdin)
        os.close(in_write)
        said = b""
        while more := os.read(out_read, 1 << 16):
            said += more
        os.close(out_read)
        status = os.waitpid(pid, 0)[1]
        took = (time.perf_counter() - began) * 1000
        if status != 0:
            raise SystemExit(f"{self._program} {command} failed: {said.decode()}")
        return took, json.loads(said) if said else {}


def measure(node: NodeLayout, fresh: list[str]) -> Times:
    """The rounds. Each contestant begins every other one."""
    times: Times = {command: {"ours": [], "peer": []} for command in ("add", "del")}
    with tempfile.TemporaryDirectory(prefix="tw-bench-") as leases:
        plugins = {"ours": Plugin(node.cni_bin, our_network(node)), "peer": Plugin(PEER_DIR, peer_network(leases))}
        for round_ in range(-WARM_UP, ROUNDS):
            order = ["ours", "peer"] if round_ % 2 else ["peer", "ours"]
            netns = {name: fresh.pop() for name in order}
            results: dict[str, Json] = {}
            for command in ("add", "del"):
                for name in order:
                    took, results[name] = plugins[name].call(command.upper(), netns[name], results.get(name))
                    if round_ >= 0:
                        times[command][name].append(took)
                    time.sleep(PAUSE_S)
    return times


def our_network(node: NodeLayout) -> Json:
    network = load(next(node.cni_conf.glob("*.conflist")))
    return stdin_for(network, network.plugins[0], capabilities={"io.kubernetes.cri.pod-annotations": {}})


def peer_network(leases: str) -> Json:
    ipam = {"type": "host-local", "dataDir": leases, "subnet": "10.66.0.0/16"}
    network = parse({"cniVersion": "1.0.0", "name": "peer", "plugins": [{"type": "ptp", "ipam": ipam}]})
    return stdin_for(network, network.plugins[0], capabilities={})


def summary(times: dict[str, list[float]]) -> dict[str, float]:
    """Percentiles of both, and their ratios."""
    figures: dict[str, float] = {"rounds": ROUNDS}
    for percent in (50, 90):
        for name, values in times.items():
            figures[f"{name}_p{percent}_ms"] = round(sorted(values)[len(values) * percent // 100], 2)
        figures[f"ratio_p{percent}"] = round(figures[f"ours_p{percent}_ms"] / figures[f"peer_p{percent}_ms"], 3)
    return figures


def report(figures: Mapping[str, object]) -> None:
    """Add our figures to the file, beside what other benches wrote."""
    REPORT.parent.mkdir(exist_ok=True)
    known = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    REPORT.write_text(json.dumps({**known, **figures}, indent=2) + "\n")


def table(figures: dict[str, dict[str, float]]) -> str:
    """For people."""
    lines = ["", f"{'':6}{'':>12}{'ours ms':>10}{'ptp ms':>10}{'ratio':>8}{'goal':>8}"]
    for command, its in figures.items():
        for percent in (50, 90):
            p = f"p{percent}"
            goal = f"{GOALS[command]:>8.2f}" if percent == 50 else ""
            ours, peer = its[f"ours_{p}_ms"], its[f"peer_{p}_ms"]
            lines.append(f"{command.upper():6}{p:>12}{ours:>10.2f}{peer:>10.2f}{its[f'ratio_{p}']:>8.2f}{goal}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
