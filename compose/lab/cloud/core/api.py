"""One call of the OpenAPI: who calls, what is wanted, was it asked before, and the answer.

Pure: the shell reads the request and the clock, and carries out a fault's delay and the account's effects.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from compose.lab.cloud.core.account import Account
from compose.lab.cloud.core.actions import ACTIONS, ECS, VPC, Action
from compose.lab.cloud.core.errors import CloudError, malformed, missing
from compose.lab.cloud.core.parameters import decode
from compose.lab.cloud.core.signature import COMMON, Nonces, verify

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


class Api:
    """The account as its callers see it."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._nonces = Nonces()
        self._tokens = ClientTokens()

    def admit(self, method: str, parameters: Mapping[str, str], now: float) -> Call:
        """Check signature, version and action; raises CloudError."""
        if not (name := parameters.get("Action")):
            raise missing("Action")
        if (version := parameters.get("Version")) not in (ECS, VPC):
            raise CloudError("InvalidVersion", f"Specified parameter Version is not valid: {version}.")
        verify(method, parameters, keys=self.account.keys.by_id, nonces=self._nonces, now=now)
        if (action := ACTIONS.get((version, name))) is None:
            sentence = "Specified api is not found, please check your url and method."
            raise CloudError("InvalidAction.NotFound", sentence, 404)
        region = parameters.get("RegionId")
        if region is not None and region != self.account.layout.region:
            raise CloudError("InvalidRegionId.NotFound", f"The specified RegionId {region} does not exist.", 404)
        return Call(action, {k: v for k, v in parameters.items() if k not in COMMON})

    def carry_out(self, call: Call, now: float) -> dict[str, Any]:
        """The answer's body without its RequestId; raises CloudError."""
        action = call.action
        self.account.advance(now)
        request = decode(call.parameters, action.request)
        token = call.parameters.get("ClientToken") if action.changes else None
        if token is None or token == "":
            return action.run(self.account, request, now)
        if len(token) > 64 or not token.isascii():
            raise malformed("ClientToken", "at most 64 ASCII characters")
        if (before := self._tokens.answered(action.name, token, call.parameters, now)) is not None:
            return before
        answer = action.run(self.account, request, now)
        self._tokens.remember(action.name, token, call.parameters, answer, now)
        return answer
