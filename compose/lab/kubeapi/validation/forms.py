"""Forms that names and values must have, as apimachinery's util/validation says it. No I/O.

Each function returns the complaints about a value; none means that it is fine.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_LABEL_FORM = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN_FORM = rf"{_LABEL_FORM}(\.{_LABEL_FORM})*"
_DNS1035_FORM = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED_FORM = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE_FORM = f"({_QUALIFIED_FORM})?"
_CONFIG_KEY_FORM = "[-._a-zA-Z0-9]+"

_ENDS = "and must start and end with an alphanumeric character"
_QUALIFIED_RULE = f"must consist of alphanumeric characters, '-', '_' or '.', {_ENDS}"

PORT_RANGE = "must be between 1 and 65535, inclusive"


def dns1123_label(value: str) -> list[str]:
    """63 letters, digits and hyphens."""
    said = _no_longer(value, 63)
    if not re.fullmatch(_LABEL_FORM, value):
        if re.fullmatch(_SUBDOMAIN_FORM, value):
            return [*said, "must not contain dots"]
        rule = f"a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', {_ENDS}"
        said.append(_form_rule(rule, _LABEL_FORM, "my-name", "123-abc"))
    return said


def dns1123_subdomain(value: str) -> list[str]:
    """Labels with dots between them, 253 characters: what most objects are called."""
    said = _no_longer(value, 253)
    if not re.fullmatch(_SUBDOMAIN_FORM, value):
        rule = f"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', {_ENDS}"
        said.append(_form_rule(rule, _SUBDOMAIN_FORM, "example.com"))
    return said


def dns1035_label(value: str) -> list[str]:
    """A label that begins with a letter: what services are called."""
    said = _no_longer(value, 63)
    if not re.fullmatch(_DNS1035_FORM, value):
        rule = (
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
            "character, and end with an alphanumeric character"
        )
        said.append(_form_rule(rule, _DNS1035_FORM, "my-name", "abc-123"))
    return said


def path_segment(value: str) -> list[str]:
    """Anything that can stand in a URL: what roles are called."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{letter}'" for letter in "/%" if letter in value]


def qualified_name(value: str) -> list[str]:
    """`name` or `example.com/name`: keys of labels, annotations and taints, finalizers."""
    prefix, slash, name = value.rpartition("/")
    rule = _form_rule(_QUALIFIED_RULE, _QUALIFIED_FORM, "MyName", "my.name", "123-abc")
    if "/" in prefix:
        return [f"a qualified name {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"]
    said = []
    if slash:
        complaints = dns1123_subdomain(prefix) if prefix else ["must be non-empty"]
        said = [f"prefix part {complaint}" for complaint in complaints]
    if not name:
        said.append("name part must be non-empty")
    said += [f"name part {complaint}" for complaint in _no_longer(name, 63)]
    if not re.fullmatch(_QUALIFIED_FORM, name):
        said.append(f"name part {rule}")
    return said


def label_value(value: str) -> list[str]:
    """Empty, or 63 letters, digits, `-`, `_` and `.`."""
    said = _no_longer(value, 63)
    if not re.fullmatch(_LABEL_VALUE_FORM, value):
        rule = f"a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', {_ENDS}"
        said.append(_form_rule(rule, _LABEL_VALUE_FORM, "MyValue", "my_value", "12345"))
    return said


def config_key(value: str) -> list[str]:
    """A ConfigMap's key: a file name."""
    said = _no_longer(value, 253)
    if not re.fullmatch(_CONFIG_KEY_FORM, value):
        rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
        said.append(_form_rule(rule, _CONFIG_KEY_FORM, "key.name", "KEY_NAME", "key-name"))
    if value in (".", ".."):
        said.append(f"must not be '{value}'")
    elif value.startswith(".."):
        said.append("must not start with '..'")
    return said


def port_number(value: int) -> list[str]:
    """1 to 65535."""
    return [] if 1 <= value <= 65535 else [PORT_RANGE]


def port_name(value: str) -> list[str]:
    """RFC 6335's service names, in lower case."""
    said = _no_longer(value, 15)
    if not re.fullmatch("[-a-z0-9]+", value):
        said.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", value):
        said.append("must contain at least one letter (a-z)")
    if "--" in value:
        said.append("must not contain consecutive hyphens")
    if value[:1] == "-" or value[-1:] == "-":
        said.append("must not begin or end with a hyphen")
    return said


def port(value: int | str) -> list[str]:
    """By number or by name."""
    return port_name(value) if isinstance(value, str) else port_number(value)


def address(text: str) -> list[str]:
    """An IP address of any family."""
    return [] if parse_address(text) else ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]


def address_of(family: str, text: str) -> list[str]:
    """An `IPv4` or `IPv6` address."""
    found = parse_address(text)
    return [] if found is not None and f"IPv{found.version}" == family else [f"must be a valid {family} address"]


def cidr(text: str) -> list[str]:
    """A network; bits of the host may be set, as Go's parser does not mind."""
    return [] if parse_cidr(text) else ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]


def usable_address(text: str) -> list[str]:
    """An address that other machines can be reached by."""
    found = parse_address(text)
    if found is None:
        return []  # another complaint says so
    said = []
    if found.is_unspecified:
        said.append("may not be unspecified (0.0.0.0 or ::)")
    if found.is_loopback:
        said.append("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if found.is_link_local:
        said.append("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if found in _LINK_LOCAL_MULTICAST[found.version]:
        said.append("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
    return said


_LINK_LOCAL_MULTICAST: dict[int, Network] = {4: IPv4Network("224.0.0.0/24"), 6: IPv6Network("ff02::/16")}


def parse_address(text: str) -> Address | None:
    """The address; None when it is none. Go's old parser, which the API server keeps, takes leading zeros."""
    try:
        found = ip_address(_without_leading_zeros(text))
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        if found.scope_id is not None:
            return None
        return found.ipv4_mapped or found
    return found


def parse_cidr(text: str) -> Network | None:
    """The network that a prefix names; None when it is none."""
    host, slash, length = text.partition("/")
    if not slash or not re.fullmatch(r"\d{1,3}", length) or (host_address := parse_address(host)) is None:
        return None
    mapped = isinstance(host_address, IPv4Address) and ":" in host
    bits = int(length) - 96 if mapped else int(length)
    try:
        return ip_network((host_address, bits), strict=False)
    except ValueError:
        return None


def _without_leading_zeros(text: str) -> str:
    return re.sub(r"(^|\.)0+(?=\d)", r"\1", text) if ":" not in text else text


def _no_longer(value: str, limit: int) -> list[str]:
    return [f"must be no more than {limit} characters"] if len(value) > limit else []


def _form_rule(rule: str, form: str, *examples: str) -> str:
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{rule} (e.g. {shown}regex used for validation is '{form}')"
