"""What policy serves: putting a pod's rules in force before the pod starts."""

import msgspec

from shared.model import AttachmentKey, Ip, Mode, PodKey
from shared.rpc.method import Method

BEFORE_THE_LINK = frozenset((Mode.EXCLUSIVE_ENI, Mode.SHARED_IPVLAN))
"""Modes in which a sandbox is attached before it is wired: its rules are in its namespace, with nothing in front."""


class Attach(msgspec.Struct, frozen=True):
    """A sandbox is wired, or soon: `host_link` is its host interface, `netns` where policy hooks inside the pod."""

    key: AttachmentKey
    pod: PodKey
    pod_uid: str
    mode: Mode
    host_link: str
    addresses: tuple[Ip, ...]
    netns: str
    asked_at: float = 0.0
    """Unix time at which the runtime asked for the pod; 0: not told."""


class Attached(msgspec.Struct, frozen=True):
    """`enforced`: rules are in the kernel; False when NetworkPolicy is off and nothing was to be done."""

    enforced: bool


class Detach(msgspec.Struct, frozen=True):
    """A sandbox goes; unknown keys are success."""

    key: AttachmentKey


class Detached(msgspec.Struct, frozen=True):
    """Nothing of the attachment is left in the rules."""


class CheckAttached(msgspec.Struct, frozen=True):
    """Is what should be in force for this attachment in force? (CNI CHECK, P15)"""

    key: AttachmentKey


class PolicyChecked(msgspec.Struct, frozen=True):
    """One sentence per difference; empty when all is as wanted."""

    problems: list[str]


ATTACH = Method("policy.attach", Attach, Attached, deadline_s=20.0)
DETACH = Method("policy.detach", Detach, Detached)
CHECK = Method("policy.check", CheckAttached, PolicyChecked)
