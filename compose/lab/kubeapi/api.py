"""The API's verbs on the store: what each does and what it refuses. Synchronous, so that each is one step. No I/O.

The clock and the source of UIDs are given; every method returns the object (or list, or Status) that the HTTP answer
carries, or raises a Refusal.
"""

import base64
import binascii
import copy
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from compose.lab.kubeapi import allocation, crds, patches, rules, status
from compose.lab.kubeapi.kinds import Kind, Kinds
from compose.lab.kubeapi.selectors import Matches, selects
from compose.lab.kubeapi.store import Expired, Name, Store
from compose.lab.kubeapi.validation import decoding, validate

Json = dict[str, Any]

NAMESPACES = ("", "namespaces")
SERVICES = ("", "services")
FIRST_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
IMMORTAL_NAMESPACES = ("default", "kube-system", "kube-public")
SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' alphabet for generated names: nothing that spells a word."""
MAX_GENERATED_BASE = 58
GENERATED_TRIES = 8


class ListOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The query of a LIST or WATCH."""

    namespace: str = ""
    labels: str = ""
    fields: str = ""
    limit: int = 0
    continue_: str = ""
    resource_version: str = ""
    exact: bool = False


class DeleteOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The body or query of a DELETE."""

    grace_s: int | None = None
    uid: str = ""
    resource_version: str = ""


class _Continue(msgspec.Struct, frozen=True):
    version: int
    after: Name


class Api:
    """One cluster's objects behind Kubernetes' verbs."""

    def __init__(
        self, store: Store, *, now: Callable[[], str], new_uid: Callable[[], str], chance: Callable[[], float]
    ) -> None:
        self.store = store
        self.kinds = Kinds()
        self._now = now
        self._new_uid = new_uid
        self._chance = chance
        for name in FIRST_NAMESPACES:
            self.create(self.kinds.built_in("", "namespaces"), "", {"metadata": {"name": name}})

    def trial(self) -> "Api":
        """A copy of the cluster for a dry run: whatever is done to it, nobody sees."""
        copied = copy.copy(self)
        copied.store, copied.kinds = self.store.trial(), Kinds(self.kinds)
        return copied

    # ---- reading

    def get(self, kind: Kind, name: Name) -> Json:
        """The object."""
        return _in_version(self._existing(kind, name), kind)

    def list(self, kind: Kind, options: ListOptions) -> Json:
        """A list, or a page of it: all pages of one list show the version of the first."""
        matches = self.matcher(kind, options)
        version, after = self.store.version, None
        if options.continue_:
            token = _read_continue(options.continue_)
            version, after = token.version, token.after
        elif options.resource_version not in ("", "0"):
            asked = version_of(options.resource_version)
            if asked > version:
                raise status.too_large_version(asked, version)
            version = asked if options.exact else version
        try:
            objects = self.store.at(kind.collection, version)
        except Expired as error:
            if options.continue_:
                raise status.continue_expired() from error
            raise status.expired(version, error.oldest) from error
        found = [name for name in sorted(objects) if (after is None or name > after) and matches(objects[name])]
        metadata: Json = {"resourceVersion": str(version)}
        if options.limit and len(found) > options.limit:
            metadata["continue"] = _continue(_Continue(version, found[options.limit - 1]))
            if not options.labels and not options.fields:
                metadata["remainingItemCount"] = len(found) - options.limit
            found = found[: options.limit]
        return {
            "kind": kind.list_kind,
            "apiVersion": kind.api_version,
            "metadata": metadata,
            "items": [_in_version(objects[name], kind) for name in found],
        }

    def matcher(self, kind: Kind, options: ListOptions) -> Matches:
        """The question that a LIST or WATCH asks of each object."""
        return selects(kind, labels=options.labels, fields=options.fields, namespace=options.namespace)

    # ---- writing

    def create(self, kind: Kind, namespace: str, body: Any, *, strict: bool = False) -> Json:
        """POST. `strict`: refuse fields that the kind does not have."""
        obj = rules.read(body, kind, strict=strict)
        rules.place(obj, kind, namespace)
        self._generate_name(obj, kind)
        if kind.namespaced:
            self._check_namespace(kind, (namespace, obj["metadata"].get("name", "")))
        obj = rules.created(obj, kind, now=self._now(), uid=self._new_uid())
        validate(kind, obj)
        name = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        if self.store.get(kind.collection, name) is not None:
            raise status.already_exists(kind, name[1])
        if kind.collection == SERVICES:
            allocation.allocate(kind, obj, None, self.store.all(SERVICES).values())
        if kind.collection == crds.COLLECTION:
            served = crds.kinds_of(obj, kind)
            obj = crds.established(obj, now=self._now())
            self.kinds.serve(served)
        made = self.store.put(kind.collection, name, obj)
        if kind.collection == NAMESPACES:
            account = {"metadata": {"name": "default"}}
            self.create(self.kinds.built_in("", "serviceaccounts"), name[1], account)
        return _in_version(made, kind)

    def replace(self, kind: Kind, name: Name, body: Any, *, part: str = "", strict: bool = False) -> Json:
        """PUT, on the object or on a part of it."""
        old = self._existing(kind, name)
        return self._put(kind, name, old, rules.updated(_in_version(old, kind), body, kind, part=part, strict=strict))

    def patch(
        self, kind: Kind, name: Name, content_type: str, patch: Any, *, part: str = "", strict: bool = False
    ) -> Json:
        """PATCH, in any of the dialects. An apply (server-side) makes the object when there is none."""
        if content_type == APPLY and self.store.get(kind.collection, name) is None and not part:
            return self.create(kind, name[0], _applied(patch, name[1]), strict=strict)
        old = self._existing(kind, name)
        current = _in_version(old, kind)
        match content_type:
            case "application/merge-patch+json":
                new = patches.merge(current, patch)
            case "application/json-patch+json":
                if not isinstance(patch, list):
                    raise status.bad_request("a JSON patch is a list of operations")
                new = patches.json_patch(current, patch)
            case "application/strategic-merge-patch+json" if kind.collection not in crds.collections(self.kinds):
                new = patches.strategic(current, patch)
            case "application/apply-patch+yaml":
                custom = kind.collection in crds.collections(self.kinds)
                merge = patches.merge if custom else patches.strategic
                new = merge(current, _applied(patch, name[1]))
            case _:
                raise status.unsupported_media(ACCEPTED_PATCHES)
        try:
            updated = rules.updated(current, new, kind, part=part, strict=strict)
        except decoding.Undecodable as error:
            raise status.invalid_patch(new, error.why) from error
        return self._put(kind, name, old, updated)

    def delete(self, kind: Kind, name: Name, options: DeleteOptions) -> Json:
        """DELETE: at once, or marked and left to whoever holds a finalizer or runs the pod."""
        old = self._existing(kind, name)
        metadata = old["metadata"]
        for said, actual, what in (
            (options.uid, metadata["uid"], "UID"),
            (options.resource_version, metadata["resourceVersion"], "ResourceVersion"),
        ):
            if said and said != actual:
                why = f"Precondition failed: {what} in precondition: {said}, {what} in object meta: {actual}"
                raise status.conflict(kind, name[1], why)
        if kind.collection == NAMESPACES:
            return self._delete_namespace(kind, name)
        grace = rules.grace_of(old, kind, options.grace_s)
        if not grace and not metadata.get("finalizers"):
            return self._end(kind, name)
        marked = {
            "deletionTimestamp": metadata.get("deletionTimestamp") or _later(self._now(), grace),
            "deletionGracePeriodSeconds": min(grace, metadata.get("deletionGracePeriodSeconds", grace)),
        }
        if all(metadata.get(key) == value for key, value in marked.items()):
            return _in_version(old, kind)
        return _in_version(self.store.put(kind.collection, name, {**old, "metadata": metadata | marked}), kind)

    def delete_collection(self, kind: Kind, options: ListOptions, how: DeleteOptions) -> Json:
        """DELETE on a collection: of everything that the options select; answers with what was there."""
        listed = self.list(kind, options)
        for item in listed["items"]:
            self.delete(kind, (item["metadata"].get("namespace", ""), item["metadata"]["name"]), how)
        return listed

    def bind(self, name: Name, node: str) -> Json:
        """POST pods/binding: the scheduler's decision."""
        pods = self.kinds.built_in("", "pods")
        old = self._existing(pods, name)
        if old["spec"].get("nodeName"):
            raise status.conflict(
                pods, name[1], f'pod {name[1]} is already assigned to node "{old["spec"]["nodeName"]}"'
            )
        scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": self._now()}
        conditions = [c for c in old["status"].get("conditions", ()) if c["type"] != "PodScheduled"]
        new = old | {
            "spec": old["spec"] | {"nodeName": node},
            "status": old["status"] | {"conditions": [*conditions, scheduled]},
        }
        self.store.put(pods.collection, name, new)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    # ---- the steps of those

    def _existing(self, kind: Kind, name: Name) -> Json:
        found = self.store.get(kind.collection, name)
        if found is None:
            raise status.not_found(kind, name[1])
        return found

    def _generate_name(self, obj: Json, kind: Kind) -> None:
        """A name from `generateName`; another one when it is taken, as often as Kubernetes tries."""
        metadata = obj["metadata"]
        base = metadata.get("generateName", "")[:MAX_GENERATED_BASE]
        if metadata.get("name") or not base:
            return
        for _ in range(GENERATED_TRIES):
            suffix = "".join(SUFFIX_LETTERS[int(self._chance() * len(SUFFIX_LETTERS))] for _ in range(5))
            metadata["name"] = base + suffix
            if self.store.get(kind.collection, (metadata.get("namespace", ""), metadata["name"])) is None:
                return

    def _check_namespace(self, kind: Kind, name: Name) -> None:
        namespaces = self.kinds.built_in("", "namespaces")
        home = self._existing(namespaces, ("", name[0]))
        if home["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {name[0]} because it is being terminated"
            raise status.forbidden(kind, name[1], why)

    def _put(self, kind: Kind, name: Name, old: Json, new: Json) -> Json:
        if kind.collection == SERVICES:
            allocation.carry_over(new, old)
        validate(kind, new, old)
        if kind.collection == SERVICES:
            others = (service for key, service in self.store.all(SERVICES).items() if key != name)
            allocation.allocate(kind, new, old, others)
        if rules.unchanged(_in_version(old, kind), new):
            return new
        metadata = new["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            if not metadata.get("deletionGracePeriodSeconds"):  # else the kubelet ends it
                self._end(kind, name)
                return new
        if kind.collection == crds.COLLECTION:
            served = crds.kinds_of(new, kind)
            self.kinds.withdraw(crds.collection_of(old))
            self.kinds.serve(served)
        return _in_version(self.store.put(kind.collection, name, new), kind)

    def _end(self, kind: Kind, name: Name) -> Json:
        """The object goes, with what only lived through it."""
        last = self.store.remove(kind.collection, name)
        if kind.collection == crds.COLLECTION:
            collection = crds.collection_of(last)
            for orphan in [*self.store.all(collection)]:
                self.store.remove(collection, orphan)
            self.kinds.withdraw(collection)
        self._finish_namespace(name[0])
        if kind.collection == ("", "pods"):
            return _in_version(last, kind)
        return status.success(kind, name[1], last["metadata"]["uid"])

    def _delete_namespace(self, kind: Kind, name: Name) -> Json:
        """What the namespace controller does, at once: the content goes first, and finalizers hold it up."""
        old = self.store.get(kind.collection, name)
        assert old is not None
        if name[1] in IMMORTAL_NAMESPACES:
            raise status.forbidden(kind, name[1], "this namespace may not be deleted")
        metadata = old["metadata"]
        if not metadata.get("deletionTimestamp"):
            ending = old | {
                "metadata": metadata | {"deletionTimestamp": self._now()},
                "status": {"phase": "Terminating"},
            }
            old = self.store.put(kind.collection, name, ending)
        for content in {inner.collection: inner for inner in self.kinds if inner.namespaced}.values():
            for inner_name in [key for key in self.store.all(content.collection) if key[0] == name[1]]:
                self.delete(content, inner_name, DeleteOptions(grace_s=0))
        self._finish_namespace(name[1])
        return old

    def _finish_namespace(self, namespace: str) -> None:
        """A terminating namespace goes when nothing is left in it."""
        home = self.store.get(NAMESPACES, ("", namespace))
        if home is None or not home["metadata"].get("deletionTimestamp") or home["metadata"].get("finalizers"):
            return
        if not any(key[0] == namespace for kind in self.kinds for key in self.store.all(kind.collection)):
            self.store.remove(NAMESPACES, ("", namespace))


APPLY = "application/apply-patch+yaml"
ACCEPTED_PATCHES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    APPLY,
)


def _applied(patch: Any, name: str) -> Json:
    """What an apply says, for the object that the URL names. Nobody owns fields here, so an apply only ever adds."""
    if not isinstance(patch, dict) or not isinstance(patch.get("metadata") or {}, dict):
        raise status.bad_request("an apply is an object")
    metadata = patch.get("metadata") or {}
    if not patch.get("apiVersion") or not patch.get("kind"):
        raise status.bad_request("an apply names its apiVersion and kind")
    return patch | {"metadata": {"name": name} | metadata}


def _in_version(obj: Json, kind: Kind) -> Json:
    """The object as `kind`'s version shows it; custom kinds convert by renaming only."""
    if obj["apiVersion"] == kind.api_version:
        return obj
    return obj | {"apiVersion": kind.api_version}


def version_of(text: str) -> int:
    """A resourceVersion parameter; a 400 when it is no number."""
    if not text.isdecimal():
        raise status.bad_request(f"Invalid value: {text!r}: resourceVersion must be a number")
    return int(text)


def _continue(token: _Continue) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode()


def _read_continue(text: str) -> _Continue:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text), type=_Continue)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise status.bad_request(f"continue key is not valid: {error}") from error


def _later(now: str, seconds: int) -> str:
    """RFC 3339 text `seconds` after another one."""
    moment = datetime.fromisoformat(now) + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
