"""Objects as the tables that `kubectl get` prints: the server chooses the columns and writes the cells. No I/O."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from compose.lab.kubeapi.kinds import Collection, Kind

Json = dict[str, Any]
Cell = Callable[[Json, str], str]
"""An object and the time now (RFC 3339) to the text in a cell."""

ACCEPT = "as=Table"
"""What a client's Accept header says that wants one."""


class Column(msgspec.Struct, frozen=True):
    """A column. `wide` ones are shown by `-o wide` only."""

    name: str
    cell: Cell
    wide: bool = False


def table(kind: Kind, found: Json, *, now: str, include: str) -> Json:
    """A Table of an object or a list; `include` is None, Metadata or Object: what rows carry besides their cells."""
    items = found.get("items", [found])
    metadata = {key: found["metadata"][key] for key in ("resourceVersion", "continue") if key in found["metadata"]}
    columns = _COLUMNS.get(kind.collection, _NAME_AND_AGE)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [
            {
                "name": column.name,
                "type": "string",
                "format": "name" if column.name == "Name" else "",
                "description": "",
                "priority": int(column.wide),
            }
            for column in columns
        ],
        "rows": [
            {"cells": [c.cell(item, now) for c in columns], "object": _row_object(item, include)} for item in items
        ],
    }


def _row_object(item: Json, include: str) -> Json | None:
    match include:
        case "None":
            return None
        case "Object":
            return item
        case _:
            partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
            return partial | {"metadata": item["metadata"]}


# ---- cells


def age(since: str | None, now: str) -> str:
    """Time passed in kubectl's words: the largest unit, or two where one would be coarse."""
    if not since:
        return "<unknown>"
    seconds = max(0, int((datetime.fromisoformat(now) - datetime.fromisoformat(since)).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if days < 2:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d"


def _at(*path: str, default: str = "<none>") -> Cell:
    def cell(obj: Json, now: str) -> str:
        at: Any = obj
        for step in path:
            at = at.get(step) if isinstance(at, dict) else None
        return default if at in (None, "") else str(at)

    return cell


def _age(obj: Json, now: str) -> str:
    return age(obj["metadata"].get("creationTimestamp"), now)


def _ready(obj: Json, now: str) -> str:
    statuses = (obj.get("status") or {}).get("containerStatuses") or ()
    ready = sum(1 for status in statuses if status.get("ready"))
    return f"{ready}/{len((obj.get('spec') or {}).get('containers') or ())}"


def _pod_status(obj: Json, now: str) -> str:
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = obj.get("status") or {}
    return status.get("reason") or status.get("phase") or "Unknown"


def _restarts(obj: Json, now: str) -> str:
    return str(sum(c.get("restartCount", 0) for c in (obj.get("status") or {}).get("containerStatuses") or ()))


def _node_status(obj: Json, now: str) -> str:
    conditions = {c.get("type"): c.get("status") for c in (obj.get("status") or {}).get("conditions") or ()}
    ready = {"True": "Ready", "False": "NotReady"}.get(conditions.get("Ready", ""), "Unknown")
    return f"{ready},SchedulingDisabled" if (obj.get("spec") or {}).get("unschedulable") else ready


def _roles(obj: Json, now: str) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = obj["metadata"].get("labels") or {}
    return ",".join(sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))) or "<none>"


def _internal_ip(obj: Json, now: str) -> str:
    addresses = (obj.get("status") or {}).get("addresses") or ()
    return next((a["address"] for a in addresses if a.get("type") == "InternalIP"), "<none>")


def _ports(obj: Json, now: str) -> str:
    ports = (obj.get("spec") or {}).get("ports") or ()
    return ",".join(f"{port.get('port')}/{port.get('protocol', 'TCP')}" for port in ports) or "<none>"


def _selector(*path: str) -> Cell:
    def cell(obj: Json, now: str) -> str:
        at: Any = obj
        for step in path:
            at = at.get(step) if isinstance(at, dict) else None
        return ",".join(f"{key}={value}" for key, value in sorted((at or {}).items())) or "<none>"

    return cell


def _last_seen(obj: Json, now: str) -> str:
    return age(obj.get("lastTimestamp") or obj["metadata"].get("creationTimestamp"), now)


def _involved(obj: Json, now: str) -> str:
    about = obj.get("involvedObject") or {}
    return f"{about.get('kind', '').lower()}/{about.get('name', '')}"


_NAME = Column("Name", _at("metadata", "name"))
_AGE = Column("Age", _age)
_NAME_AND_AGE = (_NAME, _AGE)

_COLUMNS: dict[Collection, Sequence[Column]] = {
    ("", "pods"): (
        _NAME,
        Column("Ready", _ready),
        Column("Status", _pod_status),
        Column("Restarts", _restarts),
        _AGE,
        Column("IP", _at("status", "podIP"), wide=True),
        Column("Node", _at("spec", "nodeName"), wide=True),
    ),
    ("", "nodes"): (
        _NAME,
        Column("Status", _node_status),
        Column("Roles", _roles),
        _AGE,
        Column("Version", _at("status", "nodeInfo", "kubeletVersion")),
        Column("Internal-IP", _internal_ip, wide=True),
    ),
    ("", "namespaces"): (_NAME, Column("Status", _at("status", "phase")), _AGE),
    ("", "services"): (
        _NAME,
        Column("Type", _at("spec", "type", default="ClusterIP")),
        Column("Cluster-IP", _at("spec", "clusterIP")),
        Column("Port(s)", _ports),
        _AGE,
        Column("Selector", _selector("spec", "selector"), wide=True),
    ),
    ("", "events"): (
        Column("Last Seen", _last_seen),
        Column("Type", _at("type")),
        Column("Reason", _at("reason")),
        Column("Object", _involved),
        Column("Message", _at("message")),
    ),
    ("networking.k8s.io", "networkpolicies"): (
        _NAME,
        Column("Pod-Selector", _selector("spec", "podSelector", "matchLabels")),
        _AGE,
    ),
}
