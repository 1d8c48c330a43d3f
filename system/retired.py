"""Settings of earlier versions, in the files of runs that are still to be read."""

from system.files import InputError

STAGES = ("pre_train", "train", "transfer")
# Each with the only value that this version can still do.
RETIRED = {
    "unet": {"residual": False, "attention": False, "mirror": False},
    "augmentation": {"elastic": 0},
}
LOSS = {"false_negative_weight": 0.5, "focal_power": 1}
RETIRED |= dict.fromkeys(STAGES, LOSS)
# Settings that earlier versions did not have, with what they did.
LOSS_ADDED = {"dice_of": "batch", "dice_smooth": 1.0}
ADDED = dict.fromkeys(STAGES, LOSS_ADDED)
ADDED |= {"unet": {"downsampling": 1}}


def without_retired(values):
    """Leave out retired settings; refuse one whose value this version cannot do."""
    kept = dict(values)
    for section, retired in RETIRED.items():
        own = values.get(section)
        if not isinstance(own, dict):
            continue
        for key, value in retired.items():
            if own.get(key, value) != value:
                raise InputError(
                    f"settings: {section}.{key} = {own[key]!r}: an earlier version could do that, this "
                    "one cannot; use the version that the run was made with"
                )
        kept[section] = {key: value for key, value in own.items() if key not in retired}
    return kept
