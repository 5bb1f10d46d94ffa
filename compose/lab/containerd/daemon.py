"""One containerd in a lab node's network namespace, private in everything: root, state, socket, runc, CNI folders."""

from dataclasses import dataclass
from pathlib import Path

from compose.lab.containerd.image import PAUSE

_CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
# What the lab never uses and what would log complaints on a machine without it.
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.restart", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_tcp_service = true
  # A container may have fewer rights than the machine's init: no negative oom_score_adj then.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = {netns_in_state_dir}
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"
    max_conf_num = 1
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{runc}"
        SystemdCgroup = false
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
"""


@dataclass(frozen=True, slots=True)
class Daemon:
    """Where one containerd keeps what is its own.

    `netns_in_state_dir`: pods' namespaces are mounted below `state`, and the daemon gets mounts of its own, so
    that CNI_NETNS exists only there.
    """

    folder: Path
    cni_bin: Path
    cni_conf: Path
    cgroup: str
    netns_in_state_dir: bool = False

    @property
    def socket(self) -> Path:
        """Where the CRI listens."""
        return self.folder / "c.sock"

    @property
    def config(self) -> Path:
        """The configuration file that `write_config` writes."""
        return self.folder / "config.toml"

    @property
    def argv(self) -> list[str]:
        """The command line."""
        return ["containerd", "--config", str(self.config), "--log-level", "info"]

    def write_config(self) -> None:
        """Make the folder and the configuration."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            _CONFIG.format(
                root=self.folder / "root",
                state=self.folder / "state",
                socket=self.socket,
                runc=self.folder / "runc",
                opt=self.folder / "opt",
                cni_bin=self.cni_bin,
                cni_conf=self.cni_conf,
                pause=PAUSE,
                netns_in_state_dir=str(self.netns_in_state_dir).lower(),
            )
        )
