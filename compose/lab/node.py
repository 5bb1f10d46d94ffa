"""Brings one node of a lab up: configuration, shim, services, container runtime, its object in the Kubernetes API."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from compose.lab import process, services
from compose.lab.containerd.daemon import Daemon
from compose.lab.control import NodeFacts
from compose.lab.kubeapi.allocation import SERVICE_CIDR, SERVICE_CIDR6
from compose.lab.layout import NodeLayout
from compose.lab.record import Options
from compose.lab.waiting import until
from services.cni_shim.config import GatewayConfig
from services.cni_shim.install import install
from services.eni_manager.core.preflight import OPEN_MODES
from shared.backoff import TABLE, Backoff
from shared.config import load, load_node
from shared.errors import Conflict, NotFound
from shared.kube.client import KubeClient
from shared.kube.resources import NODES, PODS
from shared.model import Mode

_LOOPBACK = Path("/usr/lib/cni/loopback")
"""containerd insists on it; Debian's containernetworking-plugins has it."""

LABEL = "terway-lab"
"""On the node objects that a lab made, with its name."""

_POLLS = ("wait_eni_status", "wait_route_entry", "meta_assign_private_ip", "wait_eni_ip_removed", "eni_delete_confirm")
_IMPATIENT = {"Duration": "50ms", "Factor": 1.5, "Jitter": 0.2, "Steps": 30, "Cap": "1s"}
"""terway.md §6.8: how often to ask whether the cloud has done what it promised."""
_RETRIES = ("throttled", "eni_create", "eni_ops", "eni_ip_ops", "eni_release")
"""How long a refused call waits for its next attempt; a lab's is a tenth of that."""

_CONFLIST = {
    # What containerd 1.6 speaks; a runtime that knows more takes the highest (CNI spec section 1).
    "cniVersion": "1.0.0",
    "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
    "name": "terway",
    "plugins": [
        {"type": "terway", "capabilities": {"bandwidth": True, "io.kubernetes.cri.pod-annotations": True}},
    ],
}


def daemon_of(node: NodeLayout, *, netns_in_state_dir: bool = False) -> Daemon:
    """The node's containerd."""
    return Daemon(
        folder=node.containerd,
        cni_bin=node.cni_bin,
        cni_conf=node.cni_conf,
        cgroup=node.cgroup,
        netns_in_state_dir=netns_in_state_dir,
    )


def config_of(node: NodeLayout, facts: NodeFacts, options: Options, about: dict[str, Any]) -> dict[str, Any]:
    """The node's configuration. Credentials are not in it: services take the instance's role from the metadata."""
    fewest, most = options.pool
    return {
        "node": {
            "node_name": facts.name,
            "run_dir": str(node.run),
            "state_dir": str(node.state),
            "log_level": options.log_level,
            "kube": {"server": about["kubernetes"]},
        },
        "eni_manager": {
            "mode": options.mode,
            "allowed_modes": sorted({*OPEN_MODES, options.mode}),
            "ipvlan_fallback": options.ipvlan_fallback,
            # A machine's own kubelet would not be this node's.
            "device_plugin_dir": str(node.folder / "device-plugins"),
            "metadata_url": about["metadata"],
            "ecs_endpoint": about["openapi"],
            "vpc_endpoint": about["openapi"],
            "scheme": "http",
            # A machine's own file would not be this node's.
            "addon_secret_dir": str(node.folder / "no-addon-secret"),
        },
        "ipam": {"cooldown_s": options.cooldown_s, "annotate_pods": options.policy},
        "policy": {"network_policy": "enforce" if options.policy else "off"},
        "cni_shim": {"probe_period_s": 0.5},  # `lab up` waits until the gateway has seen its neighbours
        "eni_conf": {
            "version": "1",
            "ip_stack": options.stack,
            "min_pool_size": fewest,
            "max_pool_size": most,
            "ip_pool_sync_period": f"{options.pool_sync_s:g}s",
            "vswitches": {facts.zone: [facts.vswitch]},
            "security_group": about["security_groups"][0],
            "service_cidr": f"{SERVICE_CIDR},{SERVICE_CIDR6}" if options.stack == "dual" else str(SERVICE_CIDR),
            "backoff_override": _backoffs(options),
        },
    }


def _backoffs(options: Options) -> dict[str, Any]:
    """The real cloud's patience would only make a quick cloud slow."""
    if options.delays == "real":
        return {}
    return {**dict.fromkeys(_POLLS, _IMPATIENT), **{name: _tenth(TABLE[name]) for name in _RETRIES}}


def _tenth(backoff: Backoff) -> dict[str, Any]:
    """As often as `backoff`, in a tenth of the time, as eni_conf has it."""
    given = {"Duration": f"{backoff.initial_s / 10:g}s", "Factor": backoff.factor, "Jitter": backoff.jitter}
    if backoff.cap_s is not None:
        given["Cap"] = f"{backoff.cap_s / 10:g}s"
    return given if backoff.steps is None else {**given, "Steps": backoff.steps}


async def start(
    node: NodeLayout,
    facts: NodeFacts,
    options: Options,
    *,
    about: dict[str, Any],
    image: Path,
    kube: KubeClient,
    say: Callable[[str], None],
) -> None:
    """Bring the node up; returns when its services are ready and its runtime would run a pod."""
    config = config_of(node, facts, options, about)
    if token := about["service_account_token"]:
        config["node"]["kube"]["token_file"] = str(_keep(node.folder / "token", token))
    services.write_config(node, config)
    await register(kube, facts, node.lab, spec=pod_ranges(node, options))
    services.start_all(node, processes=options.processes)
    install_cni(node)
    if options.runtime == "containerd":
        await start_containerd(node, image, netns_in_state_dir=options.netns_in_state_dir)
        say(f"{node.name}: containerd answers")
    await services.wait_ready(node)
    say(f"{node.name}: services are ready ({facts.primary_ip} in {facts.vswitch}, {facts.instance_type})")


def _keep(path: Path, secret: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(secret)
    return path


def install_cni(node: NodeLayout) -> None:
    """The shim under the name `terway`, `loopback` beside it, and the list that names them."""
    deadlines = load(GatewayConfig, section="cni_shim", path=node.config, env={}).deadlines
    own = load_node(node.config, {})
    install(node.cni_bin, socket=own.socket("gateway"), spool=own.spool, deadlines=deadlines)
    if not _LOOPBACK.exists():
        raise NotFound(f"{_LOOPBACK} is missing: install Debian's containernetworking-plugins")
    (node.cni_bin / "loopback").unlink(missing_ok=True)
    (node.cni_bin / "loopback").symlink_to(_LOOPBACK)
    node.cni_conf.mkdir(parents=True, exist_ok=True)
    (node.cni_conf / "10-terway.conflist").write_text(json.dumps(_CONFLIST, indent=2))


async def unregister(kube: KubeClient, lab: str) -> None:
    """Remove the lab's node objects and the pods on them: another cluster's API server keeps them otherwise."""
    async for found in kube.list(NODES, dict, label_selector=f"{LABEL}={lab}"):
        name = found["metadata"]["name"]
        async for pod in kube.list(PODS, dict, field_selector=f"spec.nodeName={name}"):
            about = pod["metadata"]
            with suppress(NotFound):
                await kube.delete(PODS, about["name"], namespace=about["namespace"], uid=about["uid"], grace_s=0)
        with suppress(NotFound):
            await kube.delete(NODES, name)


async def start_containerd(node: NodeLayout, image: Path, *, netns_in_state_dir: bool) -> None:
    """Start the node's containerd and give it the image; returns when it would run a pod."""
    from compose.lab.containerd import client  # gRPC costs 160 ms, and labs without containerd do not need it

    daemon = daemon_of(node, netns_in_state_dir=netns_in_state_dir)
    daemon.write_config()
    process.spawn(
        "containerd",
        daemon.argv,
        netns=node.netns,
        private_mounts=netns_in_state_dir,
        log=node.log("containerd"),
        records=node.processes,
    )
    async with client.Cri(daemon.socket, cgroup=daemon.cgroup) as cri:
        await until(cri.missing, what=f"containerd on {node.name}", within_s=30)
    await client.import_archive(daemon.socket, image)


def pod_ranges(node: NodeLayout, options: Options) -> dict[str, Any]:
    """What kube-controller-manager would write into the node's spec, in the mode that goes by it."""
    if options.mode is not Mode.VPC_ROUTE:
        return {}
    ranges = node.pod_cidrs if options.stack == "dual" else node.pod_cidrs[:1]
    return {"podCIDR": ranges[0], "podCIDRs": ranges}


async def register(kube: KubeClient, facts: NodeFacts, lab: str, *, spec: Mapping[str, Any] = {}) -> None:
    """The node's object, as its kubelet and the cloud's controller would write it. Another cluster may have it."""
    region = facts.zone.rpartition("-")[0]
    body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": facts.name,
            "labels": {
                LABEL: lab,
                "kubernetes.io/hostname": facts.name,
                "kubernetes.io/os": "linux",
                "node.kubernetes.io/instance-type": facts.instance_type,
                "topology.kubernetes.io/region": region,
                "topology.kubernetes.io/zone": facts.zone,
            },
        },
        "spec": {"providerID": f"{region}.{facts.instance_id}", **spec},
    }
    try:
        await kube.create(NODES, dict, body)
    except Conflict:
        return
    await kube.patch(
        NODES,
        dict,
        facts.name,
        {
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": facts.primary_ip},
                    *([{"type": "InternalIP", "address": facts.primary_ipv6}] if facts.primary_ipv6 else []),
                    {"type": "Hostname", "address": facts.name},
                ],
                "conditions": [{"type": "Ready", "status": "True", "reason": "Lab", "message": "up"}],
            }
        },
        subresource="status",
    )
