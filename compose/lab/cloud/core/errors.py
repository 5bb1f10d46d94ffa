"""The cloud's errors: a code, a sentence and an HTTP status, as its API reference prints them.

Clients decide by `code` alone (terway.md §6.11), so codes are exact; messages are the cloud's where they are known.
"""


class CloudError(Exception):
    """What an action answers instead of its result."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def missing(parameter: str) -> CloudError:
    """A mandatory parameter is not there."""
    sentence = f'The input parameter "{parameter}" that is mandatory for processing this request is not supplied.'
    return CloudError("MissingParameter", sentence)


def malformed(parameter: str, why: str) -> CloudError:
    """A parameter is there and cannot be what it should be."""
    return CloudError("InvalidParameter", f'The specified parameter "{parameter}" is not valid: {why}.')


def exclusive(one: str, other: str) -> CloudError:
    """Two parameters of which only one may be given."""
    return CloudError("InvalidParameter.Conflict", f'The parameters "{one}" and "{other}" can not be given together.')


def at_least_one(one: str, other: str) -> CloudError:
    """Two parameters of which one must be given."""
    return CloudError("MissingParameter", f'One of the parameters "{one}" and "{other}" must be supplied.')


def eni_not_found(eni: str) -> CloudError:
    """No such network interface."""
    return CloudError("InvalidEniId.NotFound", f"The specified network interface {eni} does not exist.", 404)


def instance_not_found(instance: str) -> CloudError:
    """No such instance."""
    return CloudError("InvalidEcsId.NotFound", f"The specified instance {instance} does not exist.", 404)


def vswitch_not_found(vswitch: str) -> CloudError:
    """No such vSwitch."""
    return CloudError("InvalidVSwitchId.NotFound", f"The specified vSwitch {vswitch} does not exist.", 404)


def security_group_not_found(group: str) -> CloudError:
    """No such security group."""
    return CloudError("InvalidSecurityGroupId.NotFound", f"The specified security group {group} does not exist.", 404)


def wrong_eni_state(eni: str, status: str) -> CloudError:
    """The network interface is in a state in which this cannot be done; asking again later may help."""
    return CloudError(
        "InvalidOperation.InvalidEniState", f"The operation is not allowed in the current ENI state ({eni}: {status})."
    )


def vswitch_exhausted(vswitch: str, free: int, wanted: int, *, what: str = "IpAddress") -> CloudError:
    """The vSwitch has too few free addresses, or prefixes."""
    return CloudError(
        "InvalidVSwitchId.IpNotEnough",
        f"The specified VSwitch {vswitch} has not enough {what}: {wanted} asked for, {free} left.",
        403,
    )


def quota_exceeded(what: str, sentence: str, most: int) -> CloudError:
    """The account has as many of these as it may have; `what` ends the code."""
    return CloudError(f"QuotaExceeded.{what}", f"The number of {sentence} exceeds the quota ({most}).", 403)


def address_in_use(address: str) -> CloudError:
    """Somebody has this address."""
    return CloudError("InvalidIp.IpAssigned", f"The specified IP address {address} has been assigned.", 403)


def too_many_addresses(limit: int) -> CloudError:
    """More private IPv4 addresses than this network interface can have."""
    return CloudError(
        "InvalidOperation.Ipv4CountExceeded",
        f"The number of private IPv4 addresses exceeds the limit of the network interface ({limit}).",
        403,
    )


def too_many_ipv6(limit: int) -> CloudError:
    """More IPv6 addresses than this network interface can have."""
    return CloudError(
        "InvalidOperation.Ipv6CountExceeded",
        f"The number of IPv6 addresses exceeds the limit of the network interface ({limit}).",
        403,
    )
