"""A cluster's objects in, messages out, and with them what somebody ought to hear of: objects that are not as they
should be.

    apply, refuse, delete --> Intake --> v1 updates --> Graph --flush()--> messages --> State
                                             |--------> Datastore, which leaves out what the graph remembers anyway
"""

from collections.abc import Iterable

from services.policy.core import objects, v1
from services.policy.core.convert import kubernetes
from services.policy.core.datastore import Datastore
from services.policy.core.graph import Graph
from services.policy.core.intake import Intake, Source, Update
from services.policy.core.messages import Message
from services.policy.core.problems import Invalid, Problem, place
from services.policy.core.profiles import Compat
from services.policy.core.state import State


class Cluster:
    """As one host sees it."""

    def __init__(self, host: str, compat: Compat) -> None:
        self.compat = compat
        self._graph = Graph(host, compat)
        self.store = Datastore(self._graph.items)
        self.state = State()
        """What the dataplane has been told."""
        self.problems: dict[Source, tuple[Problem, ...]] = {}
        """Of the objects that are there now."""
        self._intake = Intake(compat)
        if compat.profile_resources:
            self.apply(kubernetes.DEFAULT_ALLOW)

    def apply(self, written: objects.Object) -> tuple[Problem, ...]:
        """The object is there, with this content; what is wrong with it."""
        source = Source(type(written), written.metadata.namespace, written.metadata.name)
        keys = self._pass_on(self._intake.apply(written))
        return self._note(source, (*self._intake.problems.get(source, ()), *self._filtered(source, keys)))

    def refuse(self, kind: type[objects.Object], namespace: str, name: str, error: Invalid) -> tuple[Problem, ...]:
        """The object is there and cannot be read, so it counts as deleted; what is wrong with it."""
        self.delete(kind, namespace, name)
        problem = Problem(kind.__name__, namespace, name, error.field, error.reason)
        return self._note(Source(kind, namespace, name), (problem,))

    def delete(self, kind: type[objects.Object], namespace: str, name: str) -> None:
        """The object is gone."""
        self._pass_on(self._intake.delete(kind, namespace, name))
        self.problems.pop(Source(kind, namespace, name), None)

    def in_sync(self) -> None:
        """Everything that existed at the start has been given."""
        self._graph.in_sync()

    def flush(self) -> list[Message]:
        """What the dataplane must be told, in order."""
        said = self._graph.flush()
        self.state.apply(said)
        return said

    def _pass_on(self, updates: Iterable[Update]) -> list[v1.Key]:
        keys = []
        for key, _, value in updates:
            rest = self.store.set(key, value)
            self._graph.update(key, value, rest)
            if rest and key not in self._graph.items:  # the graph has refused it
                self.store.keep(key, value)
            keys.append(key)
        return keys

    def _filtered(self, source: Source, keys: list[v1.Key]) -> Iterable[Problem]:
        for key in keys:
            if (error := self._graph.invalid.get(key)) is not None:
                field = place(error, converted=source.kind is objects.KubePolicy)
                yield Problem(source.kind.__name__, source.namespace, source.name, field, error.reason)

    def _note(self, source: Source, found: tuple[Problem, ...]) -> tuple[Problem, ...]:
        if found:
            self.problems[source] = found
        else:
            self.problems.pop(source, None)
        return found
