"""Node, ConfigMap and Event. No I/O."""

from typing import Any

from compose.lab.kubeapi.validation import forms
from compose.lab.kubeapi.validation.fields import Path, Problems, each

Json = dict[str, Any]

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
MAX_CONFIG = 1 << 20
"""Bytes in a ConfigMap."""


def check_node(problems: Problems, node: Json, old: Json | None) -> None:
    """A Node; what the cloud has said of it stays."""
    at, spec = problems.at("spec"), node.get("spec") or {}
    _check_taints(at / "taints", spec.get("taints") or [])
    cidrs = spec.get("podCIDRs") or []
    for index, text in enumerate(cidrs):
        (at / "podCIDRs")[index].invalid(text, *forms.cidr(text))
    networks = [forms.parse_cidr(text) for text in cidrs]
    families = [network.version for network in networks if network is not None]
    if len(families) > 2 or len(families) != len(set(families)):
        (at / "podCIDRs").invalid(cidrs, "may specify no more than one CIDR for each IP family")
    seen = []
    for there, entry in each(problems.at("status", "addresses"), (node.get("status") or {}).get("addresses")):
        if entry in seen:
            there.duplicate(entry)
        seen.append(entry)
    before = (old or {}).get("spec") or {}
    for field, name in (("podCIDRs", "podCIDR"), ("providerID", "providerID")):
        if before.get(field) and spec.get(field) != before[field]:
            (at / field).forbidden(f'node updates may not change {name} except from "" to valid')


def _check_taints(at: Path, taints: list[Json]) -> None:
    seen: set[tuple[str, str]] = set()
    for there, taint in each(at, taints):
        key, effect, value = (str(taint.get(field) or "") for field in ("key", "effect", "value"))
        (there / "key").invalid(key, *forms.qualified_name(key))
        (there / "value").invalid(value, *forms.label_value(value))
        (there / "effect").one_of(effect, EFFECTS)
        if (key, effect) in seen:
            there.duplicate(taint)
        seen.add((key, effect))


def check_config_map(problems: Problems, found: Json, old: Json | None) -> None:
    """A ConfigMap; one that says so never changes again."""
    at, text, binary = problems.at(), found.get("data") or {}, found.get("binaryData") or {}
    for key in text:
        (at / "data")[key].invalid(key, *forms.config_key(key))
        if key in binary:
            (at / "data")[key].invalid(key, "duplicate of key present in binaryData")
    for key in binary:
        (at / "binaryData")[key].invalid(key, *forms.config_key(key))
    # base64 carries three bytes in four letters
    size = sum(len(v.encode()) for v in text.values()) + sum(len(v.rstrip("=")) * 3 // 4 for v in binary.values())
    if size > MAX_CONFIG:
        at.too_long(MAX_CONFIG)
    if old is None or not old.get("immutable"):
        return
    why = "field is immutable when `immutable` is set"
    if not found.get("immutable"):
        (at / "immutable").forbidden(why)
    for field in ("data", "binaryData"):
        if (found.get(field) or {}) != (old.get(field) or {}):
            (at / field).forbidden(why)


def check_event(problems: Problems, event: Json, old: Json | None) -> None:
    """A v1 Event lives in the namespace of what it is about, or in `default` when that has none."""
    home, about = event["metadata"].get("namespace", ""), (event.get("involvedObject") or {}).get("namespace") or ""
    if home != (about or "default"):
        problems.at("involvedObject", "namespace").invalid(about, "does not match event.namespace")
