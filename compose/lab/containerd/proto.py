"""Protobuf messages and methods from a small `.proto` text, without a compiler or generated code.

The CRI's own generated Python would be 15,000 lines, and no compiler is part of the machines that the lab
runs on. The lab reads its subset (`cri.proto`: messages, scalar and message fields, `repeated`, `map<string, string>`,
unary methods) into descriptors at import; protobuf's runtime makes the message classes.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
    "bool": _FIELD.TYPE_BOOL,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "uint32": _FIELD.TYPE_UINT32,
}
_BLOCK = re.compile(r"(message|service)\s+(\w+)\s*\{(.*?)\}", re.DOTALL)
_LINE = re.compile(r"(?:(map<string,\s*string>)|(?:(repeated)\s+)?(\w+))\s+(\w+)\s*=\s*(\d+);")
_RPC = re.compile(r"rpc\s+(\w+)\((\w+)\)\s+returns\s+\((\w+)\);")


@dataclass(frozen=True, slots=True)
class Rpc:
    """One unary method: its path on the wire, and how to write the request and read the answer."""

    path: str
    request: type[Message]
    encode: Callable[[Message], bytes]
    decode: Callable[[bytes], Any]


class Schema:
    """The messages and methods of one `.proto` file."""

    def __init__(self, text: str, *, file_name: str) -> None:
        text = re.sub(r"//[^\n]*", "", text)
        package = re.search(r"package\s+([\w.]+);", text)
        if package is None:
            raise ValueError(f"{file_name}: no package line")
        self._package = package[1]
        blocks = [(kind, name, body) for kind, name, body in _BLOCK.findall(text)]
        described = descriptor_pb2.FileDescriptorProto(name=file_name, package=self._package, syntax="proto3")
        for kind, name, body in blocks:
            if kind == "message":
                self._describe(described.message_type.add(name=name), body)
        # A pool of its own: somebody else's complete CRI may live in the default one.
        self._pool = descriptor_pool.DescriptorPool()
        self._pool.Add(described)
        self.rpcs = dict(self._methods(blocks))

    def message(self, name: str) -> type[Message]:
        """The class of one message; KeyError when the file has none of that name."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{self._package}.{name}"))

    def _describe(self, message: descriptor_pb2.DescriptorProto, body: str) -> None:
        for mapped, repeated, kind, name, number in _LINE.findall(body):
            field = message.field.add(name=name, number=int(number))
            field.label = _FIELD.LABEL_REPEATED if repeated or mapped else _FIELD.LABEL_OPTIONAL
            if mapped:
                # What protoc makes of a map: a nested message with this option, repeated.
                entry_name = name.title().replace("_", "") + "Entry"
                entry = message.nested_type.add(name=entry_name)
                entry.options.map_entry = True
                for part, part_number in (("key", 1), ("value", 2)):
                    entry.field.add(name=part, number=part_number, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = f".{self._package}.{message.name}.{entry_name}"
            elif kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = f".{self._package}.{kind}"

    def _methods(self, blocks: list[tuple[str, str, str]]) -> Iterator[tuple[str, Rpc]]:
        for kind, service, body in blocks:
            if kind != "service":
                continue
            for name, request, answer in _RPC.findall(body):
                yield (
                    name,
                    Rpc(
                        path=f"/{self._package}.{service}/{name}",
                        request=self.message(request),
                        encode=_serialize,
                        decode=_parser(self.message(answer)),
                    ),
                )


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _parser(kind: type[Message]) -> Callable[[bytes], Message]:
    def parse(data: bytes) -> Message:
        message = kind()
        message.ParseFromString(data)
        return message

    return parse


CRI = Schema((Path(__file__).parent / "cri.proto").read_text(), file_name="lab/cri.proto")
