"""Which actions there are, and what several of them check."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import msgspec

from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.errors import CloudError, exclusive, malformed
from compose.lab.cloud.core.model import Tag
from compose.lab.cloud.core.requests import TagPair

R = TypeVar("R", bound=msgspec.Struct)
Body = dict[str, Any]
Handler = Callable[[Account, R, float], Body]

ECS, VPC = "2014-05-26", "2016-04-28"


class Action(msgspec.Struct, frozen=True):
    """One entry of the API."""

    name: str
    version: str
    request: type[msgspec.Struct]
    run: Callable[[Account, Any, float], Body]
    changes: bool
    """Whether a ClientToken means something to it."""


ACTIONS: dict[tuple[str, str], Action] = {}
"""By version and name."""


def action(version: str, *, changes: bool) -> Callable[[Handler[R]], Handler[R]]:
    """Register a function as the action that its request's class is named after."""

    def register(run: Handler[R]) -> Handler[R]:
        kind = cast(type[msgspec.Struct], run.__annotations__["r"])
        ACTIONS[version, kind.__name__] = Action(kind.__name__, version, kind, run, changes)
        return run

    return register


def at_most_one(**given: object) -> None:
    """Refuse parameters of which only one may be given, by their names."""
    names = [name for name, value in given.items() if value]
    if len(names) > 1:
        raise exclusive(names[0], names[1])


def has_tags(wanted: Sequence[TagPair], tags: Iterable[Tag]) -> bool:
    """Whether every one is there; a wanted tag without value fits any value."""
    for pair in wanted:  # asked of 10,000 interfaces per call: no generators, no dictionaries
        for tag in tags:
            if tag.key == pair.Key and (not pair.Value or tag.value == pair.Value):
                break
        else:
            return False
    return True


def new_tags(account: Account, pairs: Sequence[TagPair], before: Sequence[Tag] = ()) -> list[Tag]:
    """`before` with these on top. Raises when they are too many, doubled, or the cloud's own."""
    keys = [pair.Key for pair in pairs]
    if len(set(keys)) < len(keys):
        raise CloudError("Duplicate.TagKey", "The Tag.N.Key contain duplicate key.")
    for key in keys:
        if key.startswith(("aliyun", "acs:", "http://", "https://")):
            raise CloudError("InvalidTagKey.Malformed", f"The specified Tag.n.Key {key} is not valid.")
    tags = {tag.key: tag for tag in before} | {pair.Key: Tag(pair.Key, pair.Value) for pair in pairs}
    if len(tags) > account.quotas.tags:
        raise CloudError("TagNumExceeded", f"The maximum number of tags is exceeded ({account.quotas.tags}).", 403)
    return list(tags.values())


def resource_group(account: Account, wanted: str) -> str:
    """The group itself, or the default one. Raises when there is no such one."""
    if wanted and wanted not in account.layout.resource_groups:
        raise CloudError("InvalidResourceGroup.NotFound", "The ResourceGroup provided does not exist.", 404)
    return wanted or account.layout.resource_groups[0]


def id_array(parameter: str, text: str | None) -> list[str] | None:
    """A JSON array of ids in one string, as some older actions take it."""
    if text is None:
        return None
    try:
        ids = msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError as e:
        raise malformed(parameter, "a JSON array of ids") from e
    if len(ids) > 100:
        raise malformed(parameter, "at most 100 ids")
    return ids
