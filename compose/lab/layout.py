"""Where a lab keeps things and how its things are called. One place, so that `lab down` finds what `lab up` made.

Everything of a lab carries its name: namespaces `tw-<lab>-…`, the folder `/run/terway-lab/<lab>/`, the cgroup
`/terway-lab/<lab>`. Names are short, for a Unix socket's path may have 107 bytes only, and without a hyphen, so that
the names of one lab are never the beginning of another's.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from shared.errors import Invalid

ROOT = Path("/run/terway-lab")
NETNS = Path("/run/netns")
CGROUP = "/terway-lab"
_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """One node's corner of a lab."""

    lab: str
    name: str

    @property
    def folder(self) -> Path:
        """Everything of the node on disk."""
        return ROOT / self.lab / self.name

    @property
    def netns_name(self) -> str:
        """The node's network namespace."""
        return f"tw-{self.lab}-{self.name}"

    @property
    def netns(self) -> Path:
        """Where the node's network namespace is mounted."""
        return NETNS / self.netns_name

    @property
    def pod_cidrs(self) -> list[str]:
        """The node's own ranges of pod addresses, IPv4 and IPv6, in mode vpc-route."""
        number = int(self.name.removeprefix("node"))
        return [f"10.244.{number}.0/24", f"fd00:10:244:{number}::/64"]

    @property
    def cgroup(self) -> str:
        """The parent of the cgroups of the node's pods."""
        return f"{CGROUP}/{self.lab}/{self.name}"

    @property
    def config(self) -> Path:
        """The services' configuration file."""
        return self.folder / "config.json"

    @property
    def run(self) -> Path:
        """The services' sockets."""
        return self.folder / "run"

    @property
    def state(self) -> Path:
        """The services' databases and spool."""
        return self.folder / "state"

    @property
    def cni_bin(self) -> Path:
        """The CNI plugins that the node's runtime may run."""
        return self.folder / "cni-bin"

    @property
    def cni_conf(self) -> Path:
        """The node's network configuration list, alone in its folder."""
        return self.folder / "cni-conf"

    @property
    def containerd(self) -> Path:
        """containerd's root, state and socket."""
        return self.folder / "containerd"

    @property
    def cni_state(self) -> Path:
        """What the runtime without containers remembers of its pods."""
        return self.folder / "pods"

    @property
    def processes(self) -> Path:
        """Records of the node's processes."""
        return self.folder / "processes"

    def log(self, process: str) -> Path:
        """The log of one of the node's processes."""
        return self.folder / "log" / f"{process}.log"

    def pod_netns_name(self, sandbox_id: str) -> str:
        """The namespace of a pod without containers."""
        return f"{self.netns_name}-{sandbox_id[:12]}"


@dataclass(frozen=True, slots=True)
class Layout:
    """One lab's names."""

    lab: str

    @classmethod
    def of(cls, lab: str) -> "Layout":
        """The layout of a lab by that name; Invalid when it cannot be one."""
        if not _NAME.fullmatch(lab):
            raise Invalid(f"lab name {lab!r}: expected 1 to 12 lower-case letters and digits, a letter first")
        return cls(lab)

    @property
    def folder(self) -> Path:
        """Everything of the lab on disk."""
        return ROOT / self.lab

    @property
    def lock(self) -> Path:
        """Held while the lab is brought up or down; beside the folder, which comes and goes."""
        return ROOT / f"{self.lab}.lock"

    @property
    def record(self) -> Path:
        """What `lab up` was asked for and made."""
        return self.folder / "lab.json"

    @property
    def cloud_socket(self) -> Path:
        """The cloud process's control interface."""
        return self.folder / "cloud.sock"

    @property
    def kube_socket(self) -> Path:
        """The Kubernetes API, for those outside the VPC."""
        return self.folder / "kube.sock"

    @property
    def kubeconfig(self) -> Path:
        """For kubectl and its like on this machine; not there when another cluster's API server stands in."""
        return self.folder / "kubeconfig"

    @property
    def processes(self) -> Path:
        """Records of the processes that belong to no node."""
        return self.folder / "processes"

    @property
    def netns_prefix(self) -> str:
        """What the names of all of the lab's namespaces begin with."""
        return f"tw-{self.lab}-"

    @property
    def vpc_netns(self) -> Path:
        """The fabric's namespace, with the cloud's addresses."""
        return NETNS / f"tw-{self.lab}-vpc"

    @property
    def outside_netns(self) -> Path:
        """The namespace of the host outside the VPC."""
        return NETNS / f"tw-{self.lab}-out"

    @property
    def cgroup(self) -> str:
        """The parent of the cgroups of all of the lab's pods."""
        return f"{CGROUP}/{self.lab}"

    def log(self, process: str) -> Path:
        """The log of a process that belongs to no node."""
        return self.folder / "log" / f"{process}.log"

    def node(self, name: str) -> NodeLayout:
        """A node's corner."""
        return NodeLayout(self.lab, name)
