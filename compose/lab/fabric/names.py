"""What a lab's namespaces are called, and finding them again."""

import re
from pathlib import Path

from shared.errors import Invalid

NETNS_DIR = Path("/run/netns")
"""Where iproute2 keeps namespaces that have names."""

_LAB = re.compile(r"[a-z][a-z0-9]{0,19}")
_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?")


def check_lab(lab: str) -> str:
    """The name itself. Without a dash: `tw-a-b-c` must have one meaning, or one lab would clean up another's."""
    if not _LAB.fullmatch(lab):
        raise Invalid(f"lab name {lab!r}: a letter, then at most 19 letters and digits, all lower case, no dash")
    return lab


def check_node(node: str) -> str:
    """The name itself, if Kubernetes would take it and it is none of the lab's own."""
    if not _NODE.fullmatch(node) or node in ("vpc", "out"):
        raise Invalid(f"node name {node!r}: lower-case letters, digits, '-' and '.'; not 'vpc' or 'out'")
    return node


def namespace(lab: str, part: str) -> str:
    """`part` is a node's name, `vpc` or `out`."""
    return f"tw-{lab}-{part}"


def path(namespace_name: str) -> Path:
    """What setns and nsenter open."""
    return NETNS_DIR / namespace_name


def existing(lab: str) -> list[str]:
    """Every namespace of this lab, from this process or one that was killed."""
    prefix = namespace(lab, "")
    return sorted(p.name for p in NETNS_DIR.glob(f"{prefix}*")) if NETNS_DIR.is_dir() else []
