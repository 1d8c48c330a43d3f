"""The settings: names, types, ranges and meaning, read from config.yaml, an overlay and ``--set``.

A value that the reference experiment uses stands in config.yaml. What the experiment leaves off has
its "off" as the default here. Later sources win: config.yaml, then ``--config FILE``, then each
``--set``.
"""

import argparse
import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from system.files import InputError
from system.retired import STAGES, without_retired
from system.yaml_files import parse_yaml, read_yaml, save_yaml

BASE_FILE = Path(__file__).with_name("config.yaml")


def expand_path(text):
    """Replace ``~`` and environment variables in a path; one that is not set is refused."""
    if not text.strip():
        raise ValueError("must name a file or folder")
    try:
        expanded = os.path.expandvars(Path(text).expanduser())
    except RuntimeError:
        raise ValueError(f"{Path(text).parts[0]} has no known home folder") from None
    if unset := re.search(r"\$(\w+|\{\w+\})", expanded):
        raise ValueError(f"the environment variable {unset.group()} is not set")
    return expanded


FilePath = Annotated[str, AfterValidator(expand_path)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
PositiveInteger = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A group of settings: unknown keys are refused, types are not guessed, nothing changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Paths(Section):
    atlas: FilePath = Field(description="folder of ATLAS v2.0, nested or not; may be missing")
    brats17: FilePath = Field(description="folder of BraTS17, nested or not; may be missing")
    prepared: FilePath = Field(description="prep.py writes slices, slices.csv and splits.json here")
    runs: FilePath = Field(description="the stages write pre_train/, train/ and transfer/ here")


class Layout(Section):
    image_suffix: Annotated[str, Field(min_length=1)] = Field(
        description="how the name of an image ends, without .nii or .nii.gz"
    )
    mask_suffix: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    ) = Field(
        description="how the name of its mask ends, what stands before is equal but for a _desc- of "
        "the image; a list: the union of those that are there is the lesion"
    )
    labels: Annotated[list[PositiveInteger], Field(min_length=1)] | None = Field(
        description="mask values that count as lesion; null: the mask is 0/1 or 0/255"
    )

    @property
    def mask_suffixes(self):
        one = isinstance(self.mask_suffix, str)
        return (self.mask_suffix,) if one else tuple(self.mask_suffix)


class Slices(Section):
    size: Annotated[int, Field(ge=16, le=4096, multiple_of=16)] = Field(
        description="side of the square in pixels"
    )
    skip: Annotated[int, Field(ge=0)] = Field(
        description="height in mm left out at the bottom and at the top of each scan"
    )
    empty_per_lesion: NonNegative | Literal["all"] = Field(
        description="training: slices without lesion drawn each epoch for every slice with one"
    )
    per_epoch: PositiveInteger | None = Field(
        None,
        description="training: slices an epoch, a random share or several rounds; null: all once",
    )
    balanced: bool = Field(
        False, description="training: draw slices with lesion equally often from each subject"
    )
    format: Literal["npy", "png"] = Field(
        "npy", description="npy: one stack a scan, fast; png: one picture a slice"
    )


class Geometry(Section):
    align: Literal["template", "none"] = Field(
        description="template: scans on any other grid are brought to MNI152 at 1 mm, the grid of "
        "ATLAS v2.0; none: slices are cut on each scan's own grid",
    )
    brain: Literal["template", "keep"] = Field(
        description="template: the network sees the brain alone, with a margin; keep: the whole head",
    )

    @model_validator(mode="after")
    def brain_is_known(self):
        if self.brain == "template" and self.align == "none":
            raise ValueError(
                "geometry.align = none leaves no brain to find: set geometry.brain to keep, too"
            )
        return self


class Split(Section):
    by: Literal["subject", "site"] = Field(
        description="folds of subjects, or of whole sites of ATLAS; prep.py draws both, and the test "
        "subset in the same way as this says"
    )
    folds: Annotated[int, Field(ge=2)] = Field(description="validation folds")
    test_fraction: Fraction = Field(description="share of the subjects that no stage ever sees")
    table: FilePath | None = Field(
        None,
        description="a csv (subject, fold) in place of the drawn split; fold is 0, 1, ... or test",
    )

    def by_of(self, dataset):
        """Return what stays together in folds of a data set; BraTS17 names but three institutions."""
        return self.by if dataset == "atlas" else "subject"


class UNet(Section):
    filters: PositiveInteger = Field(description="of the first level; doubles on each level below")
    levels: Annotated[int, Field(ge=1, le=5)] = Field(
        description="how often height and width are halved; sides must be divisible by "
        "downsampling * 2**levels"
    )
    dropout: Fraction = Field(description="share of values dropped after each pooling and skip")
    batch_normalisation: bool = Field(description="after each convolution of a block")
    instance_normalisation: bool = Field(
        False, description="in its place: normalise each slice by itself"
    )
    deep_supervision: bool = Field(
        False, description="while training, judge coarser levels of the decoder as well"
    )
    foreground_prior: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="probability of lesion that the untrained network gives to every pixel"
    )
    neighbours: Annotated[int, Field(ge=0, le=63)] = Field(
        0, description="slices on either side that are given to the network as well"
    )
    downsampling: Literal[1, 2, 4] = Field(
        1,
        description="the network sees the means of squares of so many pixels a side, and answers for "
        "each pixel",
    )

    @property
    def multiple(self):
        """Of which the sides of an image must be multiples."""
        return self.downsampling * 2**self.levels


class Augmentation(Section):
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = Field(description="either way")
    shift: Fraction = Field(description="either way along both axes, as a share of the side")
    zoom: Fraction = Field(description="in or out, as a share of the size")
    flip: bool = Field(description="exchange left and right, in half of the images")
    crop: Annotated[int, Field(ge=16, multiple_of=16)] | None = Field(
        None, description="side of a window around the lesion, in pixels; null: the whole slice"
    )
    gamma: NonNegative = Field(0.0, description="raise grey levels to the power exp(±gamma)")
    noise: Fraction = Field(0.0, description="Gaussian noise, SD as a share of the grey levels")
    blur: NonNegative = Field(0.0, description="Gaussian blur, SD in pixels")
    low_resolution: Share = Field(
        0.0, description="coarser resolution; 1: pixels up to twice as large"
    )
    bias_field: NonNegative = Field(
        0.0, description="smooth brightening and darkening, SD of its logarithm"
    )
    carve_mix: Share = Field(
        0.0, description="probability that a lesion of another subject is set into a slice"
    )


class Stage(Section):
    epochs: PositiveInteger = Field(description="the best one's weights are kept")
    batch_size: PositiveInteger = Field(description="slices a step")
    learning_rate: Positive = Field(description="of the Adam optimizer")
    weight_strength: NonNegative = Field(
        description="how much less the hand-drawn edge counts; 0: plain Dice"
    )
    dice_of: Literal["batch", "image"] = Field(
        "batch",
        description="batch: one Dice over all images of a step; image: the mean of each image's Dice, so "
        "that a small lesion counts as much as a large one",
    )
    dice_smooth: Positive = Field(
        1.0,
        description="pixels that are added to both sums of the Dice; with dice_of: image more, e.g. 100, "
        "makes it easier to begin marking a doubtful lesion",
    )
    augmentation: bool = Field(description="move training slices as section augmentation says")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine: the learning rate falls to 1 % at the last epoch"
    )
    warm_up: Fraction = Field(
        0.0, description="share of the steps over which the learning rate first rises from 0"
    )
    clip_norm: Positive | None = Field(
        None, description="shorten longer gradients (norm over all weights) to it, e.g. 1"
    )
    weight_average: Fraction = Field(
        0.0, description="momentum, e.g. 0.99, of a running mean of the weights, which is kept"
    )
    cross_entropy: NonNegative = Field(
        0.0, description="how many times the mean cross-entropy is added to the loss"
    )

    @property
    def loss_options(self):
        """The arguments of `losses.WeightedDiceLoss`."""
        return self.model_dump(
            include={"weight_strength", "cross_entropy", "dice_of", "dice_smooth"}
        )

    @property
    def optimizer_options(self):
        """The arguments of `training.adam.make_adam` but for the number of steps."""
        names = {"epochs", "learning_rate", "schedule", "warm_up", "clip_norm", "weight_average"}
        return self.model_dump(include=names)


class TransferStage(Stage):
    initial_weights: FilePath | None = Field(
        None, description="a .weights.h5 file; null: the best of <paths.runs>/pre_train"
    )
    trainable: (
        Literal["all"]
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[dict[str, Positive], Field(min_length=1)]
    ) = Field(
        "all",
        description="layer groups that learn, as [decoder, head], or each with a factor of the learning "
        "rate, as {encoder: 0.1, bottleneck: 0.3, decoder: 1, head: 1}",
    )


class Evaluation(Section):
    choose_for: Literal["lesions", "dice", "isles26"] = Field(
        "lesions",
        description="what the operating point is chosen for: Dice and lesion-wise Dice with few wrong "
        "lesions, Dice alone, or mean rank by the metrics of ISLES'26",
    )
    flip: bool = Field(
        False, description="average with the prediction of the mirrored head; twice the time"
    )
    strata: list[str] = Field(
        [],
        description="further columns of participants.tsv or *_metadata.csv by which evaluate.py divides "
        "the subjects, as [sex, scanner]",
    )


class Hardware(Section):
    devices: PositiveInteger | Literal["all"] = Field(
        "all",
        description="GPUs that share each batch, of all machines together; all: as many as divide it",
    )
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32", description="mixed is faster on GPUs and rounds more; prediction: always float32"
    )
    data: Literal["device", "host", "auto"] = Field(
        "auto",
        description="where slices are kept and augmented while training: in the memory of the GPU (JAX "
        "and PyTorch), or by the processor; auto: on one GPU with room for them, if it can do the "
        "augmentation (rotation, shift, zoom, flip, gamma)",
    )
    jit: bool | Literal["auto"] = Field(
        "auto",
        description="compile with XLA; auto: TensorFlow on one GPU (on a CPU it is 14 times slower), "
        "JAX always, PyTorch never",
    )


class Demo(Section):
    atlas_subjects: PositiveInteger = Field(40, description="subjects with stroke")
    brats17_subjects: PositiveInteger = Field(12, description="subjects with tumour")


class Settings(Section):
    """All settings. The section ``training`` of the files is already merged into each stage."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        description="of the split, the initial weights, the order and the augmentation"
    )
    split: Split
    fold: Annotated[int, Field(ge=0)] = Field(
        description="the fold that validates, from 0; the others train"
    )
    paths: Paths
    atlas: Layout
    brats17: Layout
    geometry: Geometry
    slices: Slices
    unet: UNet
    augmentation: Augmentation
    pre_train: Stage
    train: Stage
    transfer: TransferStage
    evaluation: Evaluation = Evaluation()
    hardware: Hardware = Hardware()
    demo: Demo = Demo()

    @field_validator("fold")
    @classmethod
    def fold_exists(cls, fold, info):
        folds = info.data["split"].folds if "split" in info.data else fold + 1
        if fold >= folds:
            raise ValueError(f"folds count from 0, and split.folds is {folds}")
        return fold

    @model_validator(mode="after")
    def sides_suit_the_network(self):
        crop, size, levels = self.augmentation.crop, self.slices.size, self.unet.levels
        multiple, network = self.unet.multiple, f"unet.levels = {levels}"
        if self.unet.downsampling > 1:
            network += f" and unet.downsampling = {self.unet.downsampling}"
        if crop and crop > size:
            raise ValueError(f"augmentation.crop = {crop}: slices.size is only {size}")
        if self.unet.deep_supervision and levels < 3:
            raise ValueError(
                f"unet.deep_supervision: with unet.levels = {levels} no level is in between"
            )
        for name, side in (("slices.size", size), ("augmentation.crop", crop)):
            if side and side % multiple:
                raise ValueError(f"{network}: {name} = {side} is not a multiple of {multiple}")
        return self

    def identity(self, stage):
        """Return the settings that decide the result of a stage."""
        everything = self.model_dump()
        names = ["seed", "fold", "unet", stage]
        if everything[stage]["augmentation"]:
            names.append("augmentation")
        # Not the devices: a run may go on on other ones.
        identity = {name: everything[name] for name in names}
        # What these weights are is told by their hash, wherever they lie.
        identity[stage].pop("initial_weights", None)
        # What the slices are is told by their hash.
        identity["training_slices"] = self.slices.model_dump(exclude={"size", "skip", "format"})
        identity["precision"] = self.hardware.precision
        # Runs that were made before the section was there went without alignment, too.
        if self.geometry.align != "none":
            identity["geometry"] = everything["geometry"]
        return identity

    def save(self, path):
        """Write all values as one YAML file that ``--config`` accepts."""
        save_yaml(path, self.model_dump())


def load_settings(overlay=None, overrides=()):
    """Read config.yaml, replace what an overlay and overrides name, and check the result.

    `overlay` is a YAML file with some of config.yaml's keys; `overrides` are ``section.key=value``.

    Raises
    ------
    InputError
        If a file cannot be read, a key is unknown, or a value has a wrong type or range. The message
        names every such key and what is allowed.
    """
    sources = [read_yaml(BASE_FILE)]
    if overlay is not None:
        sources.append(read_yaml(Path(overlay)))
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals or not name:
            raise InputError(f"--set {override}: write it as section.key=value")
        value = parse_yaml(value, f"--set {override}")
        for key in reversed(name.strip().split(".")):
            value = {key: value}
        sources.append(value)
    values, shared = {}, set()
    for source in sources:
        _share_out(source, shared)
        _replace(values, source)
    values = without_retired(values)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        # A mistake in `training` is found in each stage.
        found = [_explain(e, shared) for e in error.errors()]
        found = {text.split(";")[0]: text for text in reversed(found)}
        raise InputError("settings: " + "; ".join(reversed(found.values()))) from None


def load_run_settings(weights):
    """Read the settings that weights were trained with, from ``config.yaml`` in their folder."""
    weights = Path(weights)
    if not weights.is_file():
        raise InputError(
            f"{weights}: not found; run transfer_learning.py first, or name other weights by --weights"
        )
    path = weights.with_name("config.yaml")
    if not path.is_file():
        raise InputError(
            f"{path}: not found; it says what network the weights belong to: copy it from the run"
        )
    try:
        # Runs that were made before the section was there kept each scan's own grid.
        older = ("geometry.align=none", "geometry.brain=keep")
        return load_settings(path, () if "geometry" in read_yaml(path) else older)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _share_out(source, shared):
    """Give section ``training`` of a source to each stage, unless the stage's own section differs.

    `shared` collects which settings of a stage, (stage, key), are from there.
    """
    training = source.pop("training", None) or {}
    if not isinstance(training, dict):
        raise InputError(
            f"settings: training = {training!r}: must be settings that all stages share"
        )
    for stage in STAGES:
        own = source.get(stage, {})
        if isinstance(own, dict) and (training or own):
            source[stage] = training | own
            shared.update((stage, key) for key in training)
            shared.difference_update((stage, key) for key in own)


def _replace(values, changes):
    """Replace settings, section by section; a setting that is itself a mapping is replaced whole."""
    for section, value in changes.items():
        both = isinstance(value, dict) and isinstance(values.get(section), dict)
        values[section] = values[section] | value if both else value


def _explain(error, shared):
    """Turn one of pydantic's findings into `section.key = value: what is allowed`."""
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not error["loc"]:  # of several settings, which it names itself
        return message
    names = [str(name) for name in error["loc"]]
    key, known = [], Settings
    for name in names:
        key.append(name)
        field = known.model_fields.get(name)
        if field is None or not _is_section(field.annotation):
            break
        known = field.annotation
    if tuple(names[:2]) in shared:
        key[0] = "training"
    key = ".".join(key)
    if error["type"] == "value_error" and field and _is_section(field.annotation):
        return message  # which names them
    if field is None:
        near = difflib.get_close_matches(names[len(key.split(".")) - 1], known.model_fields, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{key} is not a setting; {hint}here are: {', '.join(known.model_fields)}"
    if error["type"] == "missing":
        return f"{key} is missing from config.yaml"
    return f"{key} = {error['input']!r}: {message}"


def _is_section(annotation):
    return isinstance(annotation, type) and issubclass(annotation, Section)


def parse_arguments(description, argv=None, add_arguments=None, **flags):
    """Parse ``--config``, ``--set`` and a script's own arguments into settings and a namespace.

    `description` is the script's docstring, shown by ``--help``. `add_arguments` gets the parser;
    each of `flags` is an on/off flag with its help text.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a script looks for --restart by its whole name
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings that replace those of config.yaml"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="one setting, may be repeated; replaces those of both files",
    )
    for name, text in flags.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=text)
    if add_arguments:
        add_arguments(parser)
    arguments = parser.parse_args(argv)
    return load_settings(arguments.config, arguments.overrides), arguments


def as_arguments(config=None, overrides=()):
    """Write settings as the arguments of a script, as `parse_arguments` takes them."""
    words = ["--config", str(config)] if config else []
    return words + [word for override in overrides for word in ("--set", override)]
