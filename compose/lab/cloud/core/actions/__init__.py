"""The actions: one function each, from a typed request to the body of its answer.

Importing a module registers its actions.
"""

from compose.lab.cloud.core.actions import addresses, interfaces, machines, route_tables, security_groups, tags
from compose.lab.cloud.core.actions.registry import ACTIONS, ECS, VPC, Action, Body

__all__ = [
    "ACTIONS",
    "ECS",
    "VPC",
    "Action",
    "Body",
    "addresses",
    "interfaces",
    "machines",
    "route_tables",
    "security_groups",
    "tags",
]
