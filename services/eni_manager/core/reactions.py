"""What each of the cloud's error codes means to us: one table (terway.md §6.11)."""

from enum import StrEnum, unique


@unique
class Reaction(StrEnum):
    """What a caller does about an error."""

    AGAIN = "again"
    """It passes: the same call with the same token after a pause. Throttling never counts as loss of anything."""
    LOOK = "look"
    """The state is not what the call needs: look at it, then decide."""
    NEW_TOKEN = "new_token"  # noqa: S105 no password
    """The token belongs to a call with other parameters."""
    NEW_CREDENTIALS = "new_credentials"
    """Fetch the credentials again, then the same call."""
    DENIED = "denied"
    """A permission or a credential is missing: stop, and tell people."""
    GONE = "gone"
    """What the call is about does not exist: for what ends something, that is success."""
    NO_ADDRESSES = "no_addresses"
    """The vSwitch is exhausted: mark it empty, try another."""
    NO_QUOTA = "no_quota"
    """A quota of addresses or route entries is used up: leave it be for a while."""
    NO_ENI_SLOT = "no_eni_slot"
    """The instance cannot take one more ENI: dispose of the new one, create none for a while."""
    ENI_FULL = "eni_full"
    """The ENI cannot take more addresses, so our count is wrong: compare with the cloud."""
    NO_IPV6 = "no_ipv6"
    """The vSwitch has no IPv6 range: nothing in it can have an IPv6 address."""
    GROUP_FULL = "group_full"
    """The security group is full: tell people to use an enterprise group."""
    REFUSED = "refused"
    """Anything else that is definite: the call is wrong and will stay so."""


R = Reaction

REACTIONS: dict[str, Reaction] = {
    "Throttling": R.AGAIN,
    "Throttling.User": R.AGAIN,
    "Throttling.Api": R.AGAIN,
    "InternalError": R.AGAIN,
    "ServiceUnavailable": R.AGAIN,
    "ServiceUnavailableTemporary": R.AGAIN,
    "Operation.Conflict": R.AGAIN,
    "TaskConflict": R.AGAIN,
    "IncorrectVSwitchStatus": R.AGAIN,
    "LastTokenProcessing": R.AGAIN,
    "SignatureNonceUsed": R.AGAIN,
    "IncorrectRouteEntryStatus": R.AGAIN,
    "IncorrectStatus.RouteTable": R.AGAIN,
    "InvalidCidrBlock.Duplicate": R.LOOK,
    "InvalidRouteEntry.NotFound": R.GONE,
    "QuotaExceeded.RouteEntry": R.NO_QUOTA,
    "InvalidOperation.InvalidEniState": R.LOOK,
    "InvalidOperation.InvalidEcsState": R.AGAIN,
    "IdempotentFailed": R.NEW_TOKEN,
    "IdempotentParameterMismatch": R.NEW_TOKEN,
    "InvalidSecurityToken.Expired": R.NEW_CREDENTIALS,
    "InvalidSecurityToken.Malformed": R.NEW_CREDENTIALS,
    "InvalidAccessKeyId.NotFound": R.NEW_CREDENTIALS,
    "InvalidAccessKeyId.Inactive": R.NEW_CREDENTIALS,
    "IncompleteSignature": R.DENIED,
    "SignatureDoesNotMatch": R.DENIED,
    "InvalidTimeStamp.Expired": R.DENIED,
    "Forbidden.RAM": R.DENIED,
    "Forbidden": R.DENIED,
    "UnauthorizedOperation": R.DENIED,
    "InvalidEniId.NotFound": R.GONE,
    "InvalidEcsId.NotFound": R.GONE,
    "InvalidIp.IpUnassigned": R.GONE,
    "InvalidVSwitchId.IpNotEnough": R.NO_ADDRESSES,
    "QuotaExceeded.PrivateIpAddress": R.NO_QUOTA,
    "EniPerInstanceLimitExceeded": R.NO_ENI_SLOT,
    "InvalidOperation.Ipv4CountExceeded": R.ENI_FULL,
    "InvalidOperation.Ipv6CountExceeded": R.ENI_FULL,
    "InvalidVSwitchId.Ipv6NotTurnOn": R.NO_IPV6,
    "SecurityGroupInstanceLimitExceed": R.GROUP_FULL,
}

NO_ANSWER = "NoAnswer"
"""Our own code: connection refused or cut, or the time was up. The effect may have happened."""

RETRIED = frozenset({R.AGAIN, R.NEW_CREDENTIALS})
"""The transport makes these calls again by itself; everything else is its caller's business."""


def is_throttling(code: str) -> bool:
    """Does the code say that the account calls too often?"""
    return code.startswith("Throttling")


def react(code: str, status: int) -> Reaction:
    """By code; an unknown one by HTTP status: the server's fault passes, the caller's does not."""
    if code in REACTIONS:
        return REACTIONS[code]
    if is_throttling(code):
        return R.AGAIN
    return R.AGAIN if code == NO_ANSWER or status >= 500 or status == 429 else R.REFUSED


INHIBIT_S: dict[Reaction, float] = {
    R.NO_ADDRESSES: 600.0,
    R.NO_QUOTA: 600.0,
    R.NO_IPV6: 600.0,
    R.NO_ENI_SLOT: 60.0,
    R.ENI_FULL: 60.0,
    R.GROUP_FULL: 300.0,
    R.DENIED: 60.0,
    R.REFUSED: 60.0,
}
"""How long what was refused is not asked for again."""
