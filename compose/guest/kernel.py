"""The guest's kernel, its modules and a static busybox: Debian packages, unpacked below a folder of ours."""

import lzma
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from shared.errors import Unavailable

KERNEL: Final = "linux-image-cloud-amd64"
_FETCH_S: Final = 300.0

EARLY: Final = ("virtio_pci", "overlay", "virtiofs")
"""Without these there is no file system."""

MODULES: Final = (
    "crc32c_generic",  # nf_tables wants it before itself
    *("ipv6", "dummy", "veth", "ipvlan", "macvlan", "8021q", "bridge", "ifb", "tun", "vxlan", "vrf", "virtio_net"),
    *("sch_ingress", "sch_htb", "sch_fq", "sch_fq_codel", "sch_netem", "sch_prio", "sch_tbf"),
    *("cls_bpf", "cls_u32", "cls_matchall", "cls_flower", "cls_fw", "cls_basic"),
    *("act_mirred", "act_police", "act_gact", "act_bpf", "act_skbedit", "act_vlan", "act_pedit", "act_csum"),
    "act_tunnel_key",
    *("nf_tables", "nfnetlink", "nft_ct", "nft_limit", "nft_log", "nft_nat", "nft_masq", "nft_redir", "nft_quota"),
    *("nft_reject", "nft_reject_inet", "nft_reject_ipv4", "nft_fib", "nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6"),
    *("nft_chain_nat", "nft_fwd_netdev", "nft_dup_netdev", "nft_objref", "nft_connlimit", "nft_numgen", "nft_hash"),
    *("nft_compat", "xt_comment", "xt_conntrack", "xt_mark", "xt_multiport", "xt_MASQUERADE", "xt_nat", "xt_addrtype"),
    *("nf_conntrack", "nf_nat", "nf_conntrack_netlink", "nft_meta_bridge", "nf_conntrack_bridge"),
    *("ip_tables", "iptable_nat", "iptable_filter", "inet_diag", "tcp_diag", "udp_diag", "af_packet_diag"),
)
"""Loaded before the command runs, those that the kernel has: nothing in the guest loads modules on demand."""


def fetch(package: str, folder: Path) -> Path:
    """The files of a Debian package, unpacked once below `folder`. Unavailable: it cannot be had."""
    there = folder / package
    if (there / ".whole").exists():
        return there
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir(parents=True)
    there.chmod(0o777)  # apt-get downloads as a user of its own
    for refresh in (False, True):
        if refresh:
            subprocess.run(["apt-get", "-qq", "update"], capture_output=True, check=False, timeout=_FETCH_S)
        done = subprocess.run(
            ["apt-get", "-qq", "download", package], cwd=there, capture_output=True, text=True, timeout=_FETCH_S
        )
        if done.returncode == 0:
            break
    else:
        raise Unavailable(f"package {package} cannot be downloaded: {done.stderr.strip()}")
    [archive] = there.glob("*.deb")
    subprocess.run(["dpkg", "-x", archive, there], check=True, timeout=_FETCH_S)
    archive.unlink()
    (there / ".whole").touch()
    return there


def fetch_kernel(folder: Path, package: str = KERNEL) -> Path:
    """The kernel that the package is, or that it stands for: its /boot has a vmlinuz, its /lib modules."""
    there = fetch(package, folder)
    if any(there.glob("boot/vmlinuz-*")):
        return there
    said = subprocess.run(["apt-cache", "depends", package], capture_output=True, text=True, check=True).stdout
    real = re.search(r"Depends: (linux-image-\S+)", said)
    if real is None:
        raise Unavailable(f"package {package} is no kernel and depends on none")
    return fetch(real[1], folder)


class Modules:
    """The modules below a kernel's folder, by name."""

    def __init__(self, kernel: Path) -> None:
        self._paths = {
            _plain(path.name.partition(".ko")[0]): path for path in kernel.glob("lib/modules/*/kernel/**/*.ko*")
        }

    def in_order(self, names: Iterable[str]) -> list[Path]:
        """The files of these modules, each after what it depends on. Left out: what is built in, or missing."""
        found: dict[Path, None] = {}
        for name in names:
            self._add(_plain(name), found)
        return list(found)

    def _add(self, name: str, found: dict[Path, None]) -> None:
        path = self._paths.get(name)
        if path is None or path in found:
            return
        # The module says so itself; so neither depmod nor kmod is needed.
        needs = re.search(rb"\0depends=([^\0]*)\0", content(path))
        for each in needs[1].decode().split(",") if needs else ():
            self._add(_plain(each), found)
        found[path] = None


def content(path: Path) -> bytes:
    """A module's own bytes, whether the package packs them or not."""
    raw = path.read_bytes()
    return lzma.decompress(raw) if path.suffix == ".xz" else raw


def _plain(name: str) -> str:
    return name.replace("-", "_")
