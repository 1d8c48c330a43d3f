"""YAML as people write it: ``1e-4`` is a number."""

import re
from pathlib import Path

import yaml

from system.files import InputError, whole_file


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but ``1e-4`` is a number, as everyone but YAML 1.1 expects."""


class _Dumper(yaml.SafeDumper):
    """The same rule for writing: a folder named ``1e4`` is quoted."""


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
    except (yaml.YAMLError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where and isinstance(source, Path) else ""
        raise InputError(f"{source}{line}: not valid YAML") from None


def read_yaml(path):
    """Read a file of ``key: value`` lines; an empty one is an empty dictionary."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    values = parse_yaml(text, path)
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path}: must be a list of `key: value` lines, as config.yaml is")
    return values or {}


def save_yaml(path, values):
    """Write a dictionary as YAML, whole or not at all."""
    with whole_file(path) as temporary:
        text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        temporary.write_text(text, "utf-8")
