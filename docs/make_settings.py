"""Write docs/settings.md from the schema in config.py and the values in config.yaml.

python docs/make_settings.py
"""

import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from config import STAGES, Settings, Stage, load_settings  # noqa: E402

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

Made from `config.py` and `config.yaml` by `python docs/make_settings.py`.

A value in **bold** is the experiment's and stands in [`config.yaml`](../config.yaml). The others are what the
experiment leaves off; give them in a file of your own (`--config FILE`) or one at a time:

```sh
python train_model.py --set train.schedule=cosine --set augmentation.gamma=0.2
```

Later sources win: `config.yaml`, then `--config`, then each `--set`. The keys of `pre_train`, `train` and
`transfer` may also be set for all three in the section `training`; in one source, a stage's own
value wins. A run folder keeps all values that it was made with in its own `config.yaml`, which `--config`
accepts.
"""


def make_page():
    """Return the page as text."""
    values = load_settings().model_dump()
    in_file = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    single = {name: f for name, f in Settings.model_fields.items() if not is_section(f)}
    page = [HEAD, table("Of the whole experiment", "", single, values, in_file)]
    for name, field in Settings.model_fields.items():
        if is_section(field) and name not in STAGES:
            own = in_file.get(name, {})
            page.append(table(f"`{name}`", name, field.annotation.model_fields, values[name], own))
    page.append(stage_table(values, in_file))
    return "\n".join(page)


def is_section(field):
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def table(title, section, fields, values, in_file):
    lines = [f"## {title}\n", "| key | value | allowed | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        lines.append(
            f"| `{name}` | {shown(values[name], name in in_file)} | {allowed(field)} | "
            f"{field.description} |"
        )
    return "\n".join(lines) + "\n"


def stage_table(values, in_file):
    """Return one table of the three stages side by side."""
    heads = " | ".join(f"`{stage}`" for stage in STAGES)
    lines = [
        "## `training`, `pre_train`, `train`, `transfer`\n",
        f"| key | {heads} | allowed | meaning |",
        "|---" * (len(STAGES) + 3) + "|",
    ]
    shared = in_file["training"]
    for name, field in Settings.model_fields["transfer"].annotation.model_fields.items():
        cells = [
            shown(values[stage][name], name in shared | in_file[stage])
            if name in values[stage]
            else ""
            for stage in STAGES
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {allowed(field)} | {field.description} |")
    assert set(Stage.model_fields) <= set(Settings.model_fields["transfer"].annotation.model_fields)
    return "\n".join(lines) + "\n"


def shown(value, of_the_experiment):
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    return f"**{text}**" if of_the_experiment else text


def allowed(field):
    """Write the type and the range of a field in words."""
    return describe(field.annotation, field.metadata)


def describe(kind, metadata=()):
    if kind is type(None):
        return "null"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    arguments = get_args(kind)
    if hasattr(kind, "__metadata__"):
        return describe(arguments[0], (*kind.__metadata__, *metadata))
    if get_origin(kind) in (list, dict):
        inner = " to ".join(describe(one) for one in arguments)
        return f"{'list' if get_origin(kind) is list else 'mapping'} of {inner}"
    if arguments:  # a union
        return " or ".join(describe(one) for one in arguments)
    names = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}
    return names[kind] + limits(metadata)


def limits(metadata):
    """Write ranges: `≥ 0, < 1`."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "multiple of"}
    words = []
    for item in metadata:
        found = getattr(item, "metadata", None) or [item]
        for one in found:
            if isinstance(one, annotated_types.MinLen):
                continue
            words += [
                f"{sign} {getattr(one, name):,}"
                for name, sign in signs.items()
                if getattr(one, name, None) not in (None, PydanticUndefined)
            ]
    return " " + ", ".join(words) if words else ""


if __name__ == "__main__":
    PAGE.write_text(make_page(), "utf-8")
    print(PAGE)
