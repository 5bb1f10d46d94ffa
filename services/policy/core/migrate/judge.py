"""A cluster's objects, or manifests of them -> a report on moving from Calico.

policies, sets, host endpoints, profiles, tiers --> policies.py: through our own calculation
FelixConfiguration, calico-node's environment   --> felix.py: section `policy` of the configuration
pools, BGP, controllers, staged policies, …     --> kinds.py
pods and namespaces                             --> only their annotations for Calico
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from services.policy.core import nets, objects
from services.policy.core.migrate import felix, kinds
from services.policy.core.migrate.findings import Finding, Judged, Report, Written
from services.policy.core.migrate.policies import Policies
from services.policy.core.profiles import FELIX_3_5_2, FELIX_3_24_5, FELIX_CURRENT, PROFILES, Compat

_VERSION = re.compile(r"v?3\.([0-9]+)(?:\.([0-9]+))?.*")
_ANNOTATED = ("Pod", "Namespace")
_OURS = ("projectcalico.org", "networking.k8s.io", "policy.networking.k8s.io")


def report(found: Iterable[Written], profile: str | None = None) -> Report:
    """Judge everything; without a profile the one nearest to the Calico that runs."""
    everything = list(found)
    written = [one for one in everything if is_text(one.raw)]
    odd = (Finding("differs", "", "cannot be read: nested too deeply, or not all of it is text"),)
    judged = [Judged("", "", "(an object)", "differs", odd, one.place) for one in everything if not is_text(one.raw)]
    version = _version(written)
    compat = PROFILES[profile] if profile else nearest(version)
    pools = [net for one in written if one.kind == "IPPool" and (net := nets.network(str(one.spec.get("cidr"))))]
    sixth = any(map(nets.is_ipv6, pools))
    policies = Policies(compat, pools, exact=nearest(version) is compat and bool(version))
    environment = {
        setting.name: setting for one in written if one.kind == "DaemonSet" for setting in felix.environment(one)
    }
    bookkeeping: Counter[str] = Counter()
    for one in written:
        if one.group == "projectcalico.org" and kinds.BOOKKEEPING.fullmatch(one.kind):
            bookkeeping[one.kind] += 1
        elif one.group == "projectcalico.org" and one.kind == "FelixConfiguration":
            judged.append(one.judged(_found(setting, environment, sixth=sixth) for setting in felix.configured(one)))
        elif one.kind == "DaemonSet":
            if settings := list(felix.environment(one)):
                judged.append(one.judged(_found(setting, {}, sixth=sixth) for setting in settings))
        elif one.group == "" and one.kind in _ANNOTATED:
            if annotated := list(kinds.annotated(one)):
                judged.append(one.judged(annotated))
        elif one.group in _OURS and (kind := objects.kind_of(one.raw)) is not None:
            judged.append(one.judged(policies.judged(one, kind)))
        elif one.group == "projectcalico.org":
            judged.append(one.judged(kinds.other(one)))
    configuration, nodes, silent = _configuration(written, environment, compat)
    judged += silent
    return Report(version, compat.name, configuration, nodes, tuple(judged), dict(bookkeeping))


def is_text(raw: dict[str, Any]) -> bool:
    """Whether it could stand in a file of JSON."""
    try:
        msgspec.json.encode(raw)
    except (RecursionError, ValueError, TypeError):
        return False
    return True


def nearest(version: str) -> Compat:
    """The profile for a version of Calico; the default for one that is not known."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return FELIX_3_24_5
    minor = int(found[1])
    return FELIX_3_5_2 if minor <= 5 else FELIX_3_24_5 if minor <= 28 else FELIX_CURRENT


def _version(written: list[Written]) -> str:
    return next((str(one.spec.get("calicoVersion") or "") for one in written if one.kind == "ClusterInformation"), "")


def _found(setting: felix.Setting, environment: dict[str, felix.Setting], *, sixth: bool) -> Finding:
    if setting.name == "ipv6support" and not sixth:
        return Finding("same", setting.field, "there is no pool of IPv6 addresses")
    winner = environment.get(setting.name)
    if winner is None:
        return felix.finding(setting)
    return Finding("replaced", setting.field, f"calico-node's environment wins: {winner.value!r}")


def _configuration(
    written: list[Written], environment: dict[str, felix.Setting], compat: Compat
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], list[Judged]]:
    """Section `policy` for all nodes, what single nodes need besides, and what of Felix's defaults is said nowhere."""
    everywhere: dict[str, felix.Setting] = {}
    single: dict[str, dict[str, felix.Setting]] = {}
    felixes = [one for one in written if one.group == "projectcalico.org" and one.kind == "FelixConfiguration"]
    for one in felixes:
        name = str(one.metadata.get("name") or "")
        node = name.removeprefix("node.") if name.startswith("node.") else ""
        target = single.setdefault(node, {}) if node else everywhere
        target.update({setting.name: setting for setting in felix.configured(one)})
    base = _asked_for({**everywhere, **environment})
    if compat is not FELIX_3_24_5:
        base = {"compat": compat.name, **base}
    silent = []
    if felixes or environment:
        terway = any(one.kind == "DaemonSet" and str(one.metadata.get("name")).startswith("terway") for one in written)
        for field, verdict in felix.defaults({*everywhere, *environment}, compat, terway=terway):
            base |= verdict.configuration
            finding = Finding(verdict.outcome, field, verdict.why)
            silent.append(Judged("FelixConfiguration", "", "(what nothing sets)", verdict.outcome, (finding,)))
    nodes = {}
    for node, settings in single.items():
        own = _asked_for({**settings, **environment})
        nodes[node] = {key: value for key, value in own.items() if base.get(key) != value}
    return base, {node: own for node, own in nodes.items() if own}, silent


def _asked_for(settings: dict[str, felix.Setting]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    for setting in settings.values():
        asked |= felix.judged(setting).configuration
    return asked
