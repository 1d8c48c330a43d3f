"""The settings: their names, types and ranges, read from config.yaml, an overlay and ``--set``.

`config.yaml` holds every value and is the only place with defaults; the classes here say what is
allowed. Later sources win: config.yaml, then ``--config FILE``, then each ``--set``.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from system.files import InputError, whole_file

BASE_FILE = Path(__file__).with_name("config.yaml")

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveInteger = Annotated[int, Field(ge=1)]
PositiveNumber = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A group of settings: unknown keys are refused, types are not guessed, nothing changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Paths(Section):
    atlas: str
    brats17: str
    prepared: str
    runs: str

    @field_validator("*")
    @classmethod
    def expand_home(cls, value):
        if not value.strip():
            raise ValueError("must name a folder")
        return str(Path(value).expanduser())


class Layout(Section):
    image_suffix: Annotated[str, Field(min_length=1)]
    mask_suffix: Annotated[str, Field(min_length=1)]
    labels: list[PositiveInteger] | None


class Slices(Section):
    size: Annotated[int, Field(ge=16, le=4096, multiple_of=16)]
    skip: Annotated[int, Field(ge=0)]
    format: Literal["npy", "png"]
    empty_per_lesion: Annotated[float, Field(ge=0)] | Literal["all"]
    per_epoch: PositiveInteger | None
    balanced: bool


class Split(Section):
    by: Literal["subject", "site"]
    folds: Annotated[int, Field(ge=2)]
    test_fraction: Fraction
    table: str | None


class UNet(Section):
    filters: PositiveInteger
    levels: Annotated[int, Field(ge=1, le=5)]
    dropout: Fraction
    batch_normalisation: bool
    instance_normalisation: bool
    deep_supervision: bool
    foreground_prior: Annotated[float, Field(gt=0, lt=1)]
    neighbours: Annotated[int, Field(ge=0)]


class Augmentation(Section):
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    shift: Fraction
    zoom: Fraction
    flip: bool
    crop: Annotated[int, Field(ge=16, multiple_of=16)] | None
    gamma: Annotated[float, Field(ge=0)]
    noise: Fraction
    blur: Annotated[float, Field(ge=0)]
    low_resolution: Annotated[float, Field(ge=0, le=1)]
    bias_field: Annotated[float, Field(ge=0)]
    carve_mix: Annotated[float, Field(ge=0, le=1)]


class Stage(Section):
    epochs: PositiveInteger
    batch_size: PositiveInteger
    learning_rate: PositiveNumber
    schedule: Literal["constant", "cosine"]
    warm_up: Fraction
    clip_norm: PositiveNumber | None
    weight_average: Fraction
    weight_strength: Annotated[float, Field(ge=0)]
    cross_entropy: Annotated[float, Field(ge=0)]
    augmentation: bool


class TransferStage(Stage):
    initial_weights: str | None
    trainable: (
        Literal["all"]
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[dict[str, PositiveNumber], Field(min_length=1)]
    )


class Evaluation(Section):
    flip: bool


class Hardware(Section):
    devices: PositiveInteger | Literal["all"]
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"]
    jit: bool | Literal["auto"]


class Demo(Section):
    atlas_subjects: PositiveInteger
    brats17_subjects: PositiveInteger


class Settings(Section):
    """Everything `config.yaml` holds; its comments say what each value is for."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    split: Split
    fold: Annotated[int, Field(ge=0)]
    paths: Paths
    atlas: Layout
    brats17: Layout
    slices: Slices
    unet: UNet
    augmentation: Augmentation
    pre_train: Stage
    train: Stage
    transfer: TransferStage
    evaluation: Evaluation
    hardware: Hardware
    demo: Demo

    @field_validator("fold")
    @classmethod
    def fold_exists(cls, fold, info):
        folds = info.data["split"].folds if "split" in info.data else fold + 1
        if fold >= folds:
            raise ValueError(f"folds count from 0, and split.folds is {folds}")
        return fold

    @model_validator(mode="after")
    def window_fits(self):
        crop, size = self.augmentation.crop, self.slices.size
        if crop and crop > size:
            raise ValueError(f"augmentation.crop = {crop}: slices.size is only {size}")
        return self

    @model_validator(mode="after")
    def levels_halve_evenly(self):
        if self.unet.deep_supervision and self.unet.levels < 3:
            raise ValueError(
                f"unet.deep_supervision: with unet.levels = {self.unet.levels} no level is in between"
            )
        factor = 2**self.unet.levels
        for name, side in (
            ("slices.size", self.slices.size),
            ("augmentation.crop", self.augmentation.crop),
        ):
            if side and side % factor:
                raise ValueError(
                    f"unet.levels = {self.unet.levels}: {name} = {side} is not a multiple of {factor}"
                )
        return self

    def save(self, path):
        """Write all values as one YAML file that ``--config`` accepts."""
        with whole_file(path) as temporary:
            text = yaml.dump(self.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
            temporary.write_text(text, "utf-8")


# Settings of earlier versions, each with the value that still means what this version does.
STAGES = ("pre_train", "train", "transfer")
RETIRED = {
    ("unet", "residual"): False,
    ("unet", "attention"): False,
    ("unet", "mirror"): False,
    ("augmentation", "elastic"): 0,
}
for _stage in STAGES:
    RETIRED |= {
        (_stage, "dice_of"): "batch",
        (_stage, "false_negative_weight"): 0.5,
        (_stage, "focal_power"): 1,
    }


def without_retired(values):
    """Leave out the settings of an earlier version that make no difference to this one."""

    def keep(section, key, value):
        return (section, key) not in RETIRED or value != RETIRED[section, key]

    return {
        section: {key: value for key, value in content.items() if keep(section, key, value)}
        if isinstance(content, dict)
        else content
        for section, content in values.items()
    }


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


def load_settings(overlay=None, overrides=()):
    """Read config.yaml, replace what `overlay` and `overrides` name, and check the result.

    Parameters
    ----------
    overlay : path-like, optional
        A YAML file with some of config.yaml's keys.
    overrides : iterable of str
        ``"section.key=value"``, the value in YAML.

    Returns
    -------
    Settings

    Raises
    ------
    InputError
        If a file cannot be read, a key is unknown, or a value has a wrong type or range. The
        message names every such key and what is allowed.
    """
    values = _read_yaml(BASE_FILE)
    if overlay is not None:
        _replace(values, _read_yaml(Path(overlay)))
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals or not name:
            raise InputError(f"--set {override}: write it as section.key=value")
        try:
            value = yaml.load(value, _Loader)
        except (yaml.YAMLError, RecursionError):
            raise InputError(f"--set {override}: the value is not valid YAML") from None
        for key in reversed(name.strip().split(".")):
            value = {key: value}
        _replace(values, value)
    try:
        return Settings.model_validate(without_retired(values))
    except ValidationError as error:
        raise InputError("settings: " + "; ".join(_explain(e) for e in error.errors())) from None


def _read_yaml(path):
    try:
        values = yaml.load(path.read_text("utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except (yaml.YAMLError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise InputError(f"{path}{line}: not valid YAML") from None
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path}: must be a list of `key: value` lines, as config.yaml is")
    return values or {}


def _replace(values, changes):
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _replace(values[key], value)
        else:
            values[key] = value


def _explain(error):
    """Turn one of pydantic's findings into `section.key = value: what is allowed`."""
    if not error["loc"]:  # of several settings, which it names itself
        return error["msg"].removeprefix("Value error, ")
    names = [str(part) for part in error["loc"]]
    key, known = [], Settings
    for name in names:
        key.append(name)
        field = known.model_fields.get(name)
        if field is None:
            if tuple(names) in RETIRED:
                return (
                    f"{'.'.join(names)} = {error['input']!r}: earlier versions could do that; this one "
                    "cannot"
                )
            near = difflib.get_close_matches(name, known.model_fields, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            allowed = ", ".join(known.model_fields)
            return f"{'.'.join(names)} is not a setting; {hint}here are: {allowed}"
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        known = field.annotation
    key = ".".join(key)
    if error["type"] == "missing":
        return f"{key} is missing from config.yaml"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key} = {error['input']!r}: {message}"
