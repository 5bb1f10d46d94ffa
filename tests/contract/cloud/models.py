"""Do the official response models of the second generation keep what the lab sends, with the types they declare?"""

import inspect
import re
from typing import Any

PLAIN: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}


def check_types(model: Any, where: str = "") -> None:
    """Every value that the lab has sent is of the type that its field declares; raises AssertionError."""
    for name, parameter in inspect.signature(type(model).__init__).parameters.items():
        value = getattr(model, name, None)
        if name != "self" and value is not None:
            _check(value, str(parameter.annotation), f"{where}/{name}")


def _check(value: Any, declared: str, where: str) -> None:
    if found := re.fullmatch(r"(?:List|list)\[(.*)\]", declared):
        assert isinstance(value, list), f"{where} is declared {declared} and is {value!r}"
        for i, each in enumerate(value):
            _check(each, found[1], f"{where}/{i}")
    elif declared in PLAIN:
        assert type(value) in PLAIN[declared], f"{where} is declared {declared} and is {value!r}"
    elif hasattr(value, "to_map"):
        check_types(value, where)
    else:
        raise AssertionError(f"{where} is declared {declared} and is {value!r}")


def lost(sent: Any, kept: Any, where: str = "") -> list[str]:
    """What was sent and the models have not kept: fields that they do not know, or values they have changed."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        return [
            path
            for name, value in sent.items()
            for path in (lost(value, kept[name], f"{where}/{name}") if name in kept else [f"{where}/{name}"])
        ]
    if isinstance(sent, list) and isinstance(kept, list) and len(sent) == len(kept):
        return [path for one, other in zip(sent, kept, strict=True) for path in lost(one, other, f"{where}/*")]
    return [] if sent == kept else [where]
