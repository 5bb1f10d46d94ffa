"""Refusals, in the words and the shape of Kubernetes' Status objects (apimachinery's api/errors)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from compose.lab.kubeapi.kinds import Kind

Json = dict[str, Any]


class Refusal(Exception):
    """The API server says no. `body()` is what goes over the wire."""

    def __init__(
        self, code: int, reason: str, message: str, *, details: Mapping[str, Any] | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = dict(details or {})
        self.retry_after = retry_after
        if retry_after:
            self.details["retryAfterSeconds"] = retry_after

    def body(self) -> Json:
        """The Status object."""
        status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            status["details"] = self.details
        status["code"] = self.code
        return status


def success(kind: Kind, name: str, uid: str) -> Json:
    """What a DELETE that removed the object answers."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": _about(kind, name) | {"uid": uid},
    }


def _about(kind: Kind, name: str) -> Json:
    about: Json = {"name": name} if name else {}
    if kind.group:
        about["group"] = kind.group
    return about | {"kind": kind.plural}


def not_found(kind: Kind, name: str) -> Refusal:
    """404 for an object."""
    return Refusal(404, "NotFound", f'{kind.resource} "{name}" not found', details=_about(kind, name))


def no_such_resource() -> Refusal:
    """404 for a path that no kind serves."""
    return Refusal(404, "NotFound", "the server could not find the requested resource")


def already_exists(kind: Kind, name: str) -> Refusal:
    """409 on create."""
    return Refusal(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', details=_about(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> Refusal:
    """409 on write: the object is not the one the writer read."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return Refusal(409, "Conflict", message, details=_about(kind, name))


def invalid(kind: Kind, name: str, causes: Sequence[tuple[str, str, str]]) -> Refusal:
    """422; each cause is (field, reason, message), reason as in `FieldValueRequired`."""
    said = [f"{field}: {message}" for field, _, message in causes]
    text = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    details = {
        "name": name,
        **({"group": kind.group} if kind.group else {}),
        "kind": kind.kind,
        "causes": [{"reason": reason, "message": message, "field": field} for field, reason, message in causes],
    }
    return Refusal(422, "Invalid", f'{kind.kind}{_dotted(kind)} "{name}" is invalid: {text}', details=details)


def _dotted(kind: Kind) -> str:
    return f".{kind.group}" if kind.group else ""


def invalid_patch(patched: object, why: str) -> Refusal:
    """422 for a patch whose outcome is no object of its kind."""
    message = f"Invalid value: {json.dumps(json.dumps(patched, separators=(',', ':')))}: {why}"
    cause = {"reason": "FieldValueInvalid", "message": message, "field": "patch"}
    return Refusal(422, "Invalid", f' "" is invalid: patch: {message}', details={"causes": [cause]})


def no_field_manager() -> Refusal:
    """422 for an apply by nobody."""
    cause = {"reason": "FieldValueRequired", "message": "Required value: is required for apply patch"}
    message = f'PatchOptions.meta.k8s.io "" is invalid: fieldManager: {cause["message"]}'
    about = {"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [cause | {"field": "fieldManager"}]}
    return Refusal(422, "Invalid", message, details=about)


def bad_request(message: str) -> Refusal:
    """400."""
    return Refusal(400, "BadRequest", message)


def internal(why: str) -> Refusal:
    """500."""
    return Refusal(500, "InternalError", f"Internal error occurred: {why}")


def forbidden(kind: Kind, name: str, why: str) -> Refusal:
    """403."""
    return Refusal(403, "Forbidden", f'{kind.resource} "{name}" is forbidden: {why}', details=_about(kind, name))


def unauthorized() -> Refusal:
    """401: a token that nobody holds."""
    return Refusal(401, "Unauthorized", "Unauthorized")


def not_allowed(who: str, verb: str, kind: Kind, subresource: str, namespace: str) -> Refusal:
    """403 by RBAC, in its authorizer's words."""
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    message = (
        f'{kind.resource} is forbidden: User "{who}" cannot {verb} resource "{resource}" in API group '
        f'"{kind.group}" {where}'
    )
    return Refusal(403, "Forbidden", message, details=_about(kind, ""))


def method_not_allowed() -> Refusal:
    """405."""
    return Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def unsupported_media(accepted: Sequence[str]) -> Refusal:
    """415."""
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return Refusal(415, "UnsupportedMediaType", message)


def expired(asked: int, oldest: int) -> Refusal:
    """410 for a watch that would start before what is remembered."""
    return Refusal(410, "Expired", f"too old resource version: {asked} ({oldest})")


def continue_expired() -> Refusal:
    """410 for a list whose next page can no longer be shown as it was."""
    message = (
        "The provided continue parameter is too old to display a consistent list result. "
        "You must start a new list without the continue parameter."
    )
    return Refusal(410, "Expired", message)


def too_large_version(asked: int, current: int) -> Refusal:
    """504 for a version that does not exist yet."""
    message = f"Too large resource version: {asked}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return Refusal(504, "Timeout", message, details={"causes": causes}, retry_after=1)
