"""One call of the OpenAPI: who calls, what is wanted, was it asked before, and the answer.

Pure: the shell reads the request and the clock, and carries out a fault's delay and the account's effects.
"""

import copy
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from compose.lab.cloud.core import signature, signature_v3
from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.actions import ACTIONS, ECS, VPC, Action
from compose.lab.cloud.core.errors import CloudError, malformed, missing
from compose.lab.cloud.core.parameters import decode
from compose.lab.cloud.core.signature import COMMON, Nonces
from compose.lab.cloud.core.signature_v3 import Signed
from compose.lab.cloud.core.throttle import Throttle

TOKEN_LIFE_S = 24 * 3600.0
"""How long the cloud remembers a ClientToken."""


class ClientTokens:
    """Answers to changing calls, by the token that the caller gave."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], tuple[dict[str, str], dict[str, Any]]] = {}
        self._order: deque[tuple[float, tuple[str, str]]] = deque()

    def answered(self, action: str, token: str, parameters: dict[str, str], now: float) -> dict[str, Any] | None:
        """The answer that this call got before. Raises when the token was used for something else."""
        while self._order and self._order[0][0] < now - TOKEN_LIFE_S:
            self._answers.pop(self._order.popleft()[1], None)
        if (found := self._answers.get((action, token))) is None:
            return None
        if found[0] != parameters:
            sentence = "The request uses the same client token as a previous, but non-identical request."
            raise CloudError("IdempotentParameterMismatch", sentence)
        return found[1]

    def remember(self, action: str, token: str, parameters: dict[str, str], answer: dict[str, Any], now: float) -> None:
        """A call that failed is not remembered: its token may be tried again."""
        self._answers[action, token] = (parameters, answer)
        self._order.append((now, (action, token)))


class Call(msgspec.Struct, frozen=True):
    """A call that is signed and understood."""

    action: Action
    parameters: dict[str, str]
    """Without those that belong to the call and not to the action."""
    nodes: tuple[str, ...] = ()
    """Names and instance ids of the machines that it comes from or is about."""


class Api:
    """The account as its callers see it."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.throttle = Throttle(account.layout.limits)
        self._nonces = Nonces()
        self._tokens = ClientTokens()

    def admit(
        self, method: str, parameters: Mapping[str, str], now: float, *, signed: Signed | None = None, source: str = ""
    ) -> Call:
        """Check signature, version and action, and count the call; raises CloudError.

        `signed`: the request as the second scheme sees it; None: it is signed by its parameters. `source` is the
        address that it comes from.
        """
        if signed is not None and signed.here:
            name, version = signed.headers.get("x-acs-action"), signed.headers.get("x-acs-version")
        else:
            name, version, signed = parameters.get("Action"), parameters.get("Version"), None
        if not name:
            raise missing("Action")
        if version not in (ECS, VPC):
            raise CloudError("InvalidVersion", f"Specified parameter Version is not valid: {version}.")
        keys = self.account.keys.by_id
        if signed is not None:
            key = signature_v3.verify(signed, keys=keys, nonces=self._nonces, now=now)
        else:
            key = signature.verify(method, parameters, keys=keys, nonces=self._nonces, now=now)
        if (action := ACTIONS.get((version, name))) is None:
            sentence = "Specified api is not found, please check your url and method."
            raise CloudError("InvalidAction.NotFound", sentence, 404)
        region = parameters.get("RegionId")
        if region is not None and region != self.account.layout.region:
            raise CloudError("InvalidRegionId.NotFound", f"The specified RegionId {region} does not exist.", 404)
        if name in key.forbidden:
            sentence = "User not authorized to operate on the specified resource, or this API doesn't support RAM."
            raise CloudError("Forbidden.RAM", sentence, 403)
        self.throttle.admit(name, now)
        about = {k: v for k, v in parameters.items() if k not in COMMON}
        return Call(action, about, self._nodes(about, source, key.id))

    def _nodes(self, parameters: Mapping[str, str], source: str, key: str) -> tuple[str, ...]:
        """A call is a node's if it comes from there, is signed by its role, or names its instance or an interface."""
        account = self.account
        eni = account.enis.get(parameters.get("NetworkInterfaceId", ""))
        ids = (parameters.get("InstanceId"), eni.instance if eni else None, key.partition(".")[2].rpartition(".")[0])
        instances = [account.instances.get(each or "") for each in ids]
        if source:
            instances.append(account.instance_at(source))
        return tuple(name for i in instances if i is not None for name in (i.id, i.name))

    def carry_out(self, call: Call, now: float, *, view: Account | None = None) -> dict[str, Any]:
        """The answer's body without its RequestId; raises CloudError.

        `view`: answer from this account, which is thrown away; nothing happens to the real one.
        """
        action, account = call.action, view or self.account
        self.account.advance(now)
        request = decode(call.parameters, action.request)
        token = call.parameters.get("ClientToken") if action.changes else None
        if getattr(request, "DryRun", False):
            action.run(copy.deepcopy(account), request, now)
            raise CloudError("DryRunOperation", "Request validation has been passed with DryRun flag set.", 412)
        if token is None or token == "":
            return action.run(account, request, now)
        if len(token) > 64 or not token.isascii():
            raise malformed("ClientToken", "at most 64 ASCII characters")
        if (before := self._tokens.answered(action.name, token, call.parameters, now)) is not None:
            return before
        answer = action.run(account, request, now)
        self._tokens.remember(action.name, token, call.parameters, answer, now)
        return answer
