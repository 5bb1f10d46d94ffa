"""What a lab consists of, for people and programs: names, sockets, addresses, credentials, processes."""

from typing import Any

from compose.lab import process, record, services
from compose.lab.layout import Layout, NodeLayout
from compose.lab.record import Record


def status(layout: Layout) -> dict[str, Any]:
    """Everything that somebody needs who wants to look into the lab. NotFound when it is not up."""
    there = record.read(layout)
    return {
        "name": there.name,
        "folder": str(layout.folder),
        "options": there.options,
        "namespaces": {
            "vpc": layout.vpc_netns.name,
            "outside": layout.outside_netns.name,
            **{facts.name: layout.node(facts.name).netns_name for facts in there.nodes},
        },
        "outside": {"address": there.about["outside_host"]},
        "cloud": {
            "openapi": there.about["openapi"],
            "metadata": there.about["metadata"],
            "control_socket": str(layout.cloud_socket),
            "region": there.about["region"],
            "vpc": there.about["vpc"],
            "vswitches": there.about["vswitches"],
            "security_groups": there.about["security_groups"],
            "access_key_id": there.about["access_key_id"],
            "access_key_secret": there.about["access_key_secret"],
            "role": there.about["role"],
        },
        "kubernetes": {
            "server": there.about["kubernetes"],
            "socket": str(layout.kube_socket),
            "kubeconfig": there.options.kubeconfig or str(layout.kubeconfig),
        },
        "processes": [_process(entry) for entry in process.recorded(layout.processes)],
        "nodes": [_node(layout.node(facts.name), facts.primary_ip, there) for facts in there.nodes],
    }


def _node(node: NodeLayout, address: str, there: Record) -> dict[str, Any]:
    facts = next(facts for facts in there.nodes if facts.name == node.name)
    described: dict[str, Any] = {
        "name": node.name,
        "address": address,
        "netns": node.netns_name,
        "instance_id": facts.instance_id,
        "instance_type": facts.instance_type,
        "zone": facts.zone,
        "vswitch": facts.vswitch,
        "primary_eni": facts.primary_eni,
        "config": str(node.config),
        "logs": str(node.log("services").parent),
        "cni_bin": str(node.cni_bin),
        "cni_conf": str(node.cni_conf),
        "services": {service.name: _service(node, service) for service in services.SERVICES},
        "processes": [_process(entry) for entry in process.recorded(node.processes)],
    }
    if there.options.runtime == "containerd":
        described["containerd"] = str(node.containerd / "c.sock")
    return described


def _service(node: NodeLayout, service: services.Service) -> dict[str, Any]:
    running = services.running_process(node, service)
    code, answer = services.ask(node, service, "/readyz")
    return {
        "pid": running.pid if running else None,
        "ready": code == 200,
        "missing": answer.get("missing", []),
        "socket": str(node.run / f"{service.socket}.sock"),
        # Loopback of the node's own namespace.
        "http": f"http://127.0.0.1:{service.http_port}",
    }


def _process(entry: process.Process) -> dict[str, Any]:
    return {"name": entry.name, "pid": entry.pid, "alive": entry.alive}


def as_text(there: dict[str, Any]) -> str:
    """The same for people, short."""
    lines = [
        f"lab {there['name']} ({there['folder']})",
        f"  cloud       {there['cloud']['openapi']}  control {there['cloud']['control_socket']}"
        f"  key {there['cloud']['access_key_id']}",
        f"  kubernetes  {there['kubernetes']['server']}  {there['kubernetes']['socket']}"
        f"  KUBECONFIG={there['kubernetes']['kubeconfig']}",
        f"  outside     {there['outside']['address']}  netns {there['namespaces']['outside']}",
    ]
    for node in there["nodes"]:
        lines.append(f"  {node['name']}  {node['address']}  {node['vswitch']}  netns {node['netns']}")
        for name, service in node["services"].items():
            state = "ready" if service["ready"] else f"not ready: {'; '.join(service['missing'])}"
            lines.append(f"    {name:12} pid {service['pid'] or '-'}  {service['http']}  {state}")
        if "containerd" in node:
            lines.append(f"    containerd   {node['containerd']}")
    return "\n".join(lines)
