"""What a runtime makes of a network configuration list (CNI spec sections 1 and 3). No I/O but `load`'s reading."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import Invalid

Json = dict[str, Any]

SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""The versions that this runtime speaks, oldest first."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


@dataclass(frozen=True, slots=True)
class Network:
    """One list, checked. `version` is the one that every plugin is called with (R1)."""

    name: str
    version: str
    plugins: tuple[Json, ...]
    disable_check: bool = False
    disable_gc: bool = False

    def at_least(self, version: str) -> bool:
        """Whether the version in use is `version` or newer."""
        return SUPPORTED.index(self.version) >= SUPPORTED.index(version)


def load(path: Path) -> Network:
    """Read a list and, where it asks for that, the plugin files in the folder beside it that has its name (R12)."""
    try:
        conf = json.loads(path.read_bytes())
    except ValueError as error:
        raise Invalid(f"{path}: not JSON: {error}") from error
    beside: list[Json] = []
    if isinstance(conf, dict) and not conf.get("loadOnlyInlinedPlugins") and isinstance(conf.get("name"), str):
        folder = path.parent / conf["name"]
        # The name is checked only by `parse`; a folder outside of ours is not looked at.
        if folder.parent == path.parent and folder.is_dir():
            beside = [json.loads(file.read_bytes()) for file in sorted(folder.glob("*.conf"))]
    return parse(conf, beside=beside)


def parse(conf: object, *, beside: Iterable[Json] = ()) -> Network:
    """Check a list; Invalid names the key. `beside` are plugin configurations found outside of it."""
    if not isinstance(conf, dict):
        raise Invalid("a network configuration list is a JSON object")
    name = conf.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(f"name: expected letters, digits, _ . -, starting with a letter or digit, got {name!r}")
    inline = conf.get("plugins", [])
    if not isinstance(inline, list) or not all(isinstance(plugin, dict) for plugin in inline):
        raise Invalid("plugins: expected a list of objects")
    if conf.get("loadOnlyInlinedPlugins") and not inline:
        raise Invalid("loadOnlyInlinedPlugins: cannot be true without plugins")
    plugins = (*inline, *beside)
    if not plugins:
        raise Invalid(f"plugins: network {name!r} has none")
    for index, plugin in enumerate(plugins):
        kind = plugin.get("type")
        if not isinstance(kind, str) or not kind or "/" in kind or kind in (".", ".."):
            raise Invalid(f"plugins[{index}].type: expected a program's name without a path, got {kind!r}")
    return Network(
        name=name,
        version=_highest(conf),
        plugins=tuple(plugins),
        disable_check=_switch(conf, "disableCheck"),
        disable_gc=_switch(conf, "disableGC"),
    )


def _highest(conf: Json) -> str:
    offered = [conf.get("cniVersion"), *conf.get("cniVersions", [])]
    known = [version for version in SUPPORTED if version in offered]
    if not known:
        raise Invalid(f"cniVersion: {offered!r} holds none of {', '.join(SUPPORTED)}")
    return known[-1]


def _switch(conf: Json, key: str) -> bool:
    """libcni takes a boolean or its word for these."""
    value = conf.get(key, False)
    if value in (True, False):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise Invalid(f"{key}: expected true or false, got {value!r}")


def stdin_for(
    network: Network,
    plugin: Json,
    *,
    capabilities: Mapping[str, object],
    prev_result: Json | None = None,
    valid_attachments: list[Json] | None = None,
) -> Json:
    """A plugin's configuration as it goes to its stdin: what the plugin knows of, unchanged (R2), and ours (R3)."""
    conf = {key: value for key, value in plugin.items() if key != "capabilities"}
    conf["cniVersion"], conf["name"] = network.version, network.name
    declared = plugin.get("capabilities", {})
    wanted = {name: value for name, value in capabilities.items() if declared.get(name)}
    if wanted:
        conf["runtimeConfig"] = wanted
    if prev_result is not None:
        conf["prevResult"] = prev_result
    if valid_attachments is not None:
        conf["cni.dev/valid-attachments"] = valid_attachments
        conf["cni.dev/attachments"] = valid_attachments  # what libcni sent before the specification settled
    return conf
