"""What containerd's CRI plugin hands to CNI plugins as capabilities, made from a pod's annotations."""

import re
from collections.abc import Mapping
from decimal import Decimal

from shared.errors import Invalid

_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_FACTORS = {"m": Decimal("0.001")}
_FACTORS |= {unit: Decimal(1000) ** power for power, unit in enumerate("kMGTP", start=1)}
_FACTORS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTP", start=1)}
_BURST = 2**32 - 1
"""containerd says no burst of its own: the plugin is to choose."""


def capabilities(annotations: Mapping[str, str]) -> dict[str, object]:
    """Annotations as they are, and the bandwidth that the standard ones ask for. Invalid names the annotation."""
    given: dict[str, object] = {"io.kubernetes.cri.pod-annotations": dict(annotations)}
    bandwidth = {}
    for way in ("ingress", "egress"):
        name = f"kubernetes.io/{way}-bandwidth"
        if name in annotations:
            # The keys as Go writes them, in bits per second, as containerd 1.6 does.
            bandwidth[f"{way.title()}Rate"] = _bits(annotations[name], name)
            bandwidth[f"{way.title()}Burst"] = _BURST
    if bandwidth:
        given["bandwidth"] = bandwidth
    return given


def _bits(text: str, name: str) -> int:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise Invalid(f"annotation {name}: expected a quantity such as 10M, got {text!r}")
    return int((Decimal(match[1]) * _FACTORS.get(match[2] or "", Decimal(1))).to_integral_value("ROUND_CEILING"))
