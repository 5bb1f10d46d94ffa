"""What becomes of a Calico object on its way through Calico's own client: checked, completed, and stored by its name.

`calicoctl` and Calico's API server are such clients. A custom resource written with kubectl has not passed here.
"""

import msgspec

from services.policy.core import objects
from services.policy.core.profiles import Compat
from services.policy.core.validate import check_written

_OWNED = ("knp.", "ossg.")
"""Names that other converters own and that stay as they are."""


def stored(written: objects.Object, compat: Compat) -> objects.Object:
    """The object as the client stores it. Raises Invalid when the client refuses it."""
    check_written(written, compat)
    match written:
        case objects.NetworkPolicy(metadata=metadata, spec=spec):
            return msgspec.structs.replace(written, metadata=_in_tier(metadata), spec=_typed(spec))
        case objects.GlobalNetworkPolicy(metadata=metadata, spec=spec):
            return msgspec.structs.replace(written, metadata=_in_tier(metadata), spec=_typed(spec))
    return written


def _in_tier(metadata: objects.Metadata) -> objects.Metadata:
    """The name that the datastore knows a policy by begins with its tier."""
    if metadata.name.startswith(_OWNED):
        return metadata
    return msgspec.structs.replace(metadata, name=f"default.{metadata.name}")


def _typed(spec: objects.NetworkPolicySpec) -> objects.NetworkPolicySpec:
    """Without `types` a policy governs what it has rules for, or ingress."""
    if spec.types:
        return spec
    if spec.egress:
        return msgspec.structs.replace(spec, types=("Ingress", "Egress") if spec.ingress else ("Egress",))
    return msgspec.structs.replace(spec, types=("Ingress",))
