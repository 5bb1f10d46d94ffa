"""Calico's selector language: text -> parsed once -> canonical text, id, and a compiled predicate.

    selector := blank | or            blank or white space alone means all()
    or       := and ( '||' and )*
    and      := unary ( '&&' unary )*
    unary    := '!'* primary          an even number of ! cancels out
    primary  := '(' or ')' | has(L) | all() | global()
              | L '==' S | L '!=' S | L 'in' set | L 'not in' set
              | L 'contains' S | L 'starts with' S | L 'ends with' S

`Language.FELIX_3_5` lacks `global()`, `contains`, `starts with` and `ends with`, and reads `in` and `not in` as
operators wherever they stand, so that a label that begins with them is a syntax error there (felix.md §2.1).
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache

Get = Callable[[str], str | None]
"""Looks a label up, inherited ones included; None: the item does not have it."""

Predicate = Callable[[Get], bool]


class SelectorError(ValueError):
    """The text is no selector; the message quotes it and says where reading stopped."""


class Language(Enum):
    """Which Felix reads the text."""

    CURRENT = "current"
    FELIX_3_5 = "3.5"


class Selector:
    """A parsed selector: immutable, compared by its canonical text."""

    def __init__(self, root: "Node") -> None:
        self.root = root

    @cached_property
    def text(self) -> str:
        """The canonical text, as Felix prints it."""
        return self.root.text()

    @cached_property
    def id(self) -> str:
        """The id of the IP set of whatever this selects: `s:…`."""
        return unique_id("s", self.text)

    @cached_property
    def matches(self) -> Predicate:
        """`matches(labels.get)`."""
        return self.root.compiled()

    def labels(self) -> frozenset[str]:
        """Every label that the outcome can depend on."""
        return frozenset(node.label for node in self.root.walk() if isinstance(node, (Has, Compare, Member)))

    def prefixed(self, prefix: str) -> "Selector":
        """The same question about labels whose names begin with `prefix` (`pcns.`, `pcsa.`)."""
        return Selector(self.root.prefixed(prefix))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selector) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Selector({self.text!r})"


def unique_id(prefix: str, content: str) -> str:
    """Felix's hash id: 38 characters of base64url SHA-224 over `prefix:content`, after `prefix:`."""
    digest = hashlib.sha224(f"{prefix}:{content}".encode()).digest()
    return f"{prefix}:{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


# ---- the tree


class Node:
    """One term. Every kind says how it is printed, compiled, walked and prefixed."""

    __slots__ = ()

    def text(self) -> str:
        """Canonical text."""
        raise NotImplementedError

    def compiled(self) -> Predicate:
        """A function of the labels."""
        raise NotImplementedError

    def prefixed(self, prefix: str) -> "Node":
        """The node with its labels' names prefixed; without a label it stays as it is."""
        return self

    def walk(self) -> Iterator["Node"]:
        """The node and all below it."""
        yield self


@dataclass(frozen=True, slots=True)
class All(Node):
    """`all()`, and `global()`, which is rewritten before anything is matched against it."""

    word: str = "all"

    def text(self) -> str:
        return f"{self.word}()"

    def compiled(self) -> Predicate:
        return lambda get: True


@dataclass(frozen=True, slots=True)
class Has(Node):
    """`has(label)`."""

    label: str

    def text(self) -> str:
        return f"has({self.label})"

    def compiled(self) -> Predicate:
        label = self.label
        return lambda get: get(label) is not None

    def prefixed(self, prefix: str) -> Node:
        return Has(prefix + self.label)


@dataclass(frozen=True, slots=True)
class Compare(Node):
    """`label OPERATOR "value"`. Only `!=` is true of an item without the label."""

    label: str
    operator: str
    value: str

    def text(self) -> str:
        return f"{self.label} {self.operator} {_quoted(self.value)}"

    def compiled(self) -> Predicate:
        label, value = self.label, self.value
        match self.operator:
            case "==":
                return lambda get: get(label) == value
            case "!=":
                return lambda get: get(label) != value
            case "contains":
                return lambda get: (found := get(label)) is not None and value in found
            case "starts with":
                return lambda get: (found := get(label)) is not None and found.startswith(value)
            case _:
                return lambda get: (found := get(label)) is not None and found.endswith(value)

    def prefixed(self, prefix: str) -> Node:
        return Compare(prefix + self.label, self.operator, self.value)


@dataclass(frozen=True, slots=True)
class Member(Node):
    """`label in {…}`, or `not in`, which is true of an item without the label."""

    label: str
    values: frozenset[str]
    negated: bool

    def text(self) -> str:
        inside = ", ".join(_quoted(value) for value in sorted(self.values, key=str.encode))
        return f"{self.label} {'not in' if self.negated else 'in'} {{{inside}}}"

    def compiled(self) -> Predicate:
        label, values = self.label, self.values
        if self.negated:
            return lambda get: get(label) not in values
        return lambda get: get(label) in values

    def prefixed(self, prefix: str) -> Node:
        return Member(prefix + self.label, self.values, self.negated)


@dataclass(frozen=True, slots=True)
class Not(Node):
    """`!term`."""

    term: Node

    def text(self) -> str:
        return f"!{self.term.text()}"

    def compiled(self) -> Predicate:
        term = self.term.compiled()
        return lambda get: not term(get)

    def prefixed(self, prefix: str) -> Node:
        return Not(self.term.prefixed(prefix))

    def walk(self) -> Iterator[Node]:
        yield self
        yield from self.term.walk()


@dataclass(frozen=True, slots=True)
class Joined(Node):
    """Two or more terms joined by `&&` or by `||`. Parentheses of the source keep their level: nothing is flattened."""

    operator: str
    terms: tuple[Node, ...]

    def text(self) -> str:
        return f"({f' {self.operator} '.join(term.text() for term in self.terms)})"

    def compiled(self) -> Predicate:
        terms = tuple(term.compiled() for term in self.terms)
        if len(terms) == 2:  # by far the most frequent; a closure over two beats a loop
            first, second = terms
            if self.operator == "&&":
                return lambda get: first(get) and second(get)
            return lambda get: first(get) or second(get)
        if self.operator == "&&":
            return lambda get: all(term(get) for term in terms)
        return lambda get: any(term(get) for term in terms)

    def prefixed(self, prefix: str) -> Node:
        return Joined(self.operator, tuple(term.prefixed(prefix) for term in self.terms))

    def walk(self) -> Iterator[Node]:
        yield self
        for term in self.terms:
            yield from term.walk()


def _quoted(value: str) -> str:
    return f"'{value}'" if '"' in value else f'"{value}"'


# ---- reading

_LABEL = r"[a-zA-Z0-9_./-]{1,512}"
_PUNCTUATION = r"(?P<punctuation>\|\||&&|==|!=|[(){},!])"
_STRING = r"""(?P<string>"[^"]*"|'[^']*')"""
_CALL = rf"has\([ \t]*(?P<has>{_LABEL})[ \t]*\)"
_WORD_END = r"(?![a-zA-Z0-9_])"
_IN = rf"(?P<operator>(?:not[ \t]*in|in){_WORD_END})"
_OPERATOR = re.compile(rf"[ \t]*(?P<operator>(?:not[ \t]*in|in|contains|starts[ \t]*with|ends[ \t]*with){_WORD_END})")
_TOKEN = re.compile(
    rf"[ \t]*(?:{_PUNCTUATION}|{_STRING}|{_CALL}|(?P<empty>all|global)\([ \t]*\)|(?P<label>{_LABEL})|(?P<end>$(?!\n)))"
)
_TOKEN_3_5 = re.compile(
    rf"[ \t]*(?:{_PUNCTUATION}|{_STRING}|{_CALL}|(?P<empty>all)\([ \t]*\)|{_IN}|(?P<label>{_LABEL})|(?P<end>$(?!\n)))"
)
_SPELLING = {"notin": "not in", "startswith": "starts with", "endswith": "ends with"}

MAX_DEPTH = 100
"""Parentheses within one another; many more, in a hostile text, would exhaust the stack."""

Token = tuple[str, str]
"""Kind (punctuation, string, has, empty, operator, label, end) and text."""


class _Reader:
    """Recursive descent over the tokens, one token ahead."""

    def __init__(self, source: str, language: Language) -> None:
        self._source = source
        self._depth = 0
        self._pattern = _TOKEN if language is Language.CURRENT else _TOKEN_3_5
        self._position = 0
        self._token = self._read()

    def _read(self, after_label: bool = False) -> Token:
        """The next token. An operator word is one only behind a label; elsewhere it is a label itself."""
        found = None
        if after_label and self._pattern is _TOKEN:
            found = _OPERATOR.match(self._source, self._position)
        if found is None:
            found = self._pattern.match(self._source, self._position)
        if found is None:
            rest = self._source[self._position : self._position + 20]
            raise SelectorError(f"{self._source!r}: cannot read {rest!r}")
        self._position = found.end()
        kind = found.lastgroup
        assert kind is not None
        return kind, found[kind]

    def whole(self) -> Node:
        if self._token[0] == "end":
            return All()
        root = self._either()
        if self._token[0] != "end":
            raise self._unexpected("the end")
        return root

    def _either(self) -> Node:
        return self._joined("||", self._both)

    def _both(self) -> Node:
        return self._joined("&&", self._unary)

    def _joined(self, operator: str, read: Callable[[], Node]) -> Node:
        terms = [read()]
        while self._skip(operator):
            terms.append(read())
        return terms[0] if len(terms) == 1 else Joined(operator, tuple(terms))

    def _unary(self) -> Node:
        negated = False
        while self._skip("!"):
            negated = not negated
        term = self._primary()
        return Not(term) if negated else term

    def _primary(self) -> Node:
        kind, text = self._take()
        match kind:
            case "has":
                return Has(text)
            case "empty":
                return All(text)
            case "label":
                return self._comparison(text)
            case "punctuation" if text == "(":
                return self._nested()
        raise self._unexpected("a term", (kind, text))

    def _nested(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise SelectorError(f"{self._source[:80]!r}…: more than {MAX_DEPTH} parentheses within one another")
        inner = self._either()
        self._expect(")")
        self._depth -= 1
        return inner

    def _comparison(self, label: str) -> Node:
        kind, text = self._take()
        if kind == "punctuation" and text in ("==", "!="):
            return Compare(label, text, self._string())
        if kind == "operator":
            word = " ".join(text.split())
            word = _SPELLING.get(word.replace(" ", ""), word)
            if word in ("in", "not in"):
                return Member(label, self._set(), negated=word == "not in")
            return Compare(label, word, self._string())
        raise self._unexpected("an operator", (kind, text))

    def _set(self) -> frozenset[str]:
        values = set()
        self._expect("{")
        while not self._skip("}"):
            values.add(self._string())
            if not self._skip(","):
                self._expect("}")
                break
        return frozenset(values)

    def _string(self) -> str:
        kind, text = self._take()
        if kind != "string":
            raise self._unexpected("a quoted value", (kind, text))
        return text[1:-1]

    def _take(self) -> Token:
        token = self._token
        if token[0] != "end":
            self._token = self._read(token[0] == "label")
        return token

    def _skip(self, punctuation: str) -> bool:
        if self._token != ("punctuation", punctuation):
            return False
        self._take()
        return True

    def _expect(self, punctuation: str) -> None:
        if not self._skip(punctuation):
            raise self._unexpected(repr(punctuation))

    def _unexpected(self, wanted: str, token: Token | None = None) -> SelectorError:
        kind, text = token or self._token
        return SelectorError(f"{self._source!r}: expected {wanted}, found {repr(text) if text else kind}")


@lru_cache(maxsize=16384)
def parse(source: str, language: Language = Language.CURRENT) -> Selector:
    """The selector that `source` writes. Raises SelectorError. The same text gives the same object."""
    return Selector(_Reader(source, language).whole())
