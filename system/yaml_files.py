"""YAML as people write it: ``1e-4`` is a number, and no key stands twice."""

import re
from pathlib import Path

import yaml

from system.files import InputError, save_text


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but ``1e-4`` is a number, as everyone but YAML 1.1 expects.

    A date stays text: a folder may be named like one.
    A key that stands twice is an error: the loader of PyYAML would take the last without a word.
    """

    def construct_mapping(self, node, deep=False):
        # Before PyYAML puts merged keys, ``<<``, beside these, which may well repeat them.
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise _KeyTwice(
                    problem=f"`{key.value}` stands there twice; keep one",
                    problem_mark=key.start_mark,
                )
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _KeyTwice(yaml.MarkedYAMLError):
    """A key stands twice in one mapping."""


class _Dumper(yaml.SafeDumper):
    """The same rule for writing: a folder named ``1e4`` is quoted."""


_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
    for first, rules in _Loader.yaml_implicit_resolvers.items()
}
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
        list("-+0123456789"),
    )


def parse_yaml(text, source):
    """Read YAML; `source`, a file or an argument, is named if it is not valid."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where and isinstance(source, Path) else ""
        reason = error.problem if isinstance(error, _KeyTwice) else "not valid YAML"
        raise InputError(f"{source}{line}: {reason}") from None


def read_yaml(path):
    """Read a file of ``key: value`` lines; an empty one is an empty dictionary."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from None
    values = parse_yaml(text, path)
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path}: must be a list of `key: value` lines, as config.yaml is")
    return values or {}


def quoted(text):
    """Write a text as YAML on one line, as for ``--set``; in a path ``$`` stays a variable's."""
    return yaml.dump(str(text), default_style='"', width=float("inf")).strip()


def save_yaml(path, values):
    """Write a dictionary as YAML, whole or not at all."""
    save_text(path, yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
