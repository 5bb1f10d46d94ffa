"""What is called what: names that a person recognises in `nft list ruleset`, and that never collide.

Felix's prefixes where it has one (felix.md §5.1): `pi-`/`po-` policies, `pri-`/`pro-` profiles, `tw-`/`fw-` to and from
workloads. The rest of the name is the object's own, which nft takes as it is; a longer or stranger one ends in a hash.
"""

import base64
import hashlib
import re
from typing import Literal

from services.policy.core import messages as m

Direction = Literal["ingress", "egress"]

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9/_.-]*", re.ASCII)
_LINK = re.compile(r"[A-Za-z0-9_.:@=+-]{1,15}", re.ASCII)
_LONGEST = 100
"""The kernel would take 255 bytes; what it logs begins with 127, and a chain's name is quoted there."""


def named(prefix: str, text: str) -> str:
    """`prefix-text`, or with a hash where that is too long, not to be written, or could be taken for such a one."""
    if len(text) <= _LONGEST and _PLAIN.fullmatch(text) and "__" not in text:
        return f"{prefix}-{text}"
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()[:20]
    return f"{prefix}-{re.sub(r'[^A-Za-z0-9/.-]', '.', text[:60])}__{digest}"


def part(chain: str, number: int) -> str:
    """What a chain goes on in; no object's own name is made so, however many dots and dashes it has."""
    return f"{chain}__{number}"


def policy(policy_id: m.PolicyID, direction: Direction) -> str:
    """The chain of a policy's rules of one direction."""
    return named("pi" if direction == "ingress" else "po", policy_id.text)


def profile(name: str, direction: Direction) -> str:
    """The chain of a profile's rules of one direction."""
    return named("pri" if direction == "ingress" else "pro", name)


def workload(workload_id: m.WorkloadEndpointID, direction: Direction) -> str:
    """The chain that is one endpoint's word: `tw-NAMESPACE/POD` of what goes to it, `fw-…` of what comes from it."""
    usual = (workload_id.orchestrator_id, workload_id.endpoint_id) == ("k8s", "eth0")
    text = workload_id.workload_id if usual else "//".join(_parts(workload_id))
    return named("tw" if direction == "ingress" else "fw", text)


def _parts(workload_id: m.WorkloadEndpointID) -> tuple[str, str, str]:
    return workload_id.orchestrator_id, workload_id.workload_id, workload_id.endpoint_id


def ip_set(set_id: str, family: int, *, interval: bool) -> str:
    """An IP set's members of one IP version; one that holds networks is another set than one of addresses."""
    return named(f"cali{family}0", set_id.replace(":", "-", 1)) + (".net" if interval else "")


def spoof(link: str) -> str:
    """The chain of the other addresses that a pod may send from."""
    return named("spoof", link)


def is_link(name: str) -> bool:
    """Whether an interface can have this name and nft takes it for itself, not for a pattern."""
    return _LINK.fullmatch(name) is not None and name not in (".", "..")
