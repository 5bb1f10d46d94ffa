"""Actions on the tags of network interfaces and security groups."""

from collections.abc import Callable

import msgspec

from compose.lab.cloud.core import paging
from compose.lab.cloud.core import requests_network as requests
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.actions.registry import ECS, Body, action, has_tags, new_tags
from compose.lab.cloud.core.errors import CloudError, at_least_one
from compose.lab.cloud.core.model import Tag

Set = Callable[[list[Tag]], None]


def _resource(account: Account, kind: str, name: str) -> tuple[list[Tag], Set]:
    """Its tags, and how to give it others. Raises when there is no such resource."""
    if kind == "eni" and (eni := account.enis.get(name)) is not None:
        return eni.tags, lambda tags: setattr(eni, "tags", tags)
    if kind == "securitygroup" and (group := account.security_groups.get(name)) is not None:

        def replace(tags: list[Tag]) -> None:
            account.security_groups[name] = msgspec.structs.replace(group, tags=tuple(tags))

        return list(group.tags), replace
    if kind not in ("eni", "securitygroup"):
        raise CloudError("InvalidResourceType.NotFound", f"The ResourceType {kind} does not exist.", 404)
    raise CloudError("InvalidResourceId.NotFound", f"The specified ResourceIds {name} are not found.", 404)


@action(ECS, changes=True)
def tag(account: Account, r: requests.TagResources, now: float) -> Body:
    """All resources, or none; a key that is there gets its new value."""
    found = [_resource(account, r.ResourceType, name) for name in r.ResourceId]
    changed = [(set_tags, new_tags(account, r.Tag, before)) for before, set_tags in found]
    for set_tags, tags in changed:
        set_tags(tags)
    return {}


@action(ECS, changes=True)
def untag(account: Account, r: requests.UntagResources, now: float) -> Body:
    """These keys, or `All`."""
    if not r.All and not r.TagKey:
        raise at_least_one("TagKey", "All")
    for before, set_tags in [_resource(account, r.ResourceType, name) for name in r.ResourceId]:
        set_tags([] if r.All else [t for t in before if t.key not in r.TagKey])
    return {}


@action(ECS, changes=False)
def list_tags(account: Account, r: requests.ListTagResources, now: float) -> Body:
    """One line per tag."""
    if not r.ResourceId and not r.Tag:
        raise at_least_one("ResourceId", "Tag")
    held: dict[str, list[Tag]] = (
        {e.id: e.tags for e in account.enis.values()}
        if r.ResourceType == "eni"
        else {g.id: list(g.tags) for g in account.security_groups.values()}
        if r.ResourceType == "securitygroup"
        else {}
    )
    lines = [
        {"ResourceType": r.ResourceType, "ResourceId": name, "TagKey": t.key, "TagValue": t.value}
        for name, tags in held.items()
        if (not r.ResourceId or name in r.ResourceId) and has_tags(r.Tag, tags)
        for t in tags
    ]
    page, fields = paging.tokened(lines, r.NextToken, None, 50)
    return {"NextToken": fields["NextToken"], "TagResources": {"TagResource": list(page)}}
