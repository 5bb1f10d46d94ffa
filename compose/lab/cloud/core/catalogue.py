"""What the lab's cloud sells: the instance types that the suite's own catalogue has."""

from shared.instance_types import TYPES, InstanceType

__all__ = ["TYPES", "InstanceType"]
