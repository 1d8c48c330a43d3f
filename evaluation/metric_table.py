"""The metrics of metrics.csv: what each is called, and which is better the larger it is."""

from typing import NamedTuple


class Metric(NamedTuple):
    """How a metric of metrics.csv is shown and judged."""

    label: str
    unit: str
    digits: int
    larger_is_better: bool

    @property
    def title(self):
        return f"{self.label}, {self.unit}" if self.unit else self.label


METRICS = {
    "dice": Metric("Dice", "", 3, True),
    "precision": Metric("precision", "", 3, True),
    "recall": Metric("recall", "", 3, True),
    "lesion_f1": Metric("lesion F1", "", 3, True),
    "lesion_dice": Metric("lesion-wise Dice", "", 3, True),
    "hd95_mm": Metric("HD95", "mm", 1, False),
    "assd_mm": Metric("surface distance", "mm", 2, False),
    "volume_difference_ml": Metric("volume difference", "ml", 2, False),
    "voxel_difference": Metric("voxel difference", "", 0, False),
    "atlas_lesion_count_difference": Metric("lesion count difference (ATLAS)", "", 2, False),
    "false_positive_ml": Metric("wrong lesions", "ml", 2, False),
    "absolute_volume_difference_ml": Metric("absolute volume difference", "ml", 2, False),
    "lesion_count_difference": Metric("lesion count difference", "", 2, False),
    "recognition_quality": Metric("recognition quality", "", 3, True),
    "pr_auc": Metric("PR-AUC", "", 3, True),
}
RANKINGS = {
    "isles26": (
        "dice",
        "absolute_volume_difference_ml",
        "lesion_count_difference",
        "recognition_quality",
        "pr_auc",
    )
}
VOLUME_COLUMNS = ("lesion_volume_ml", "lesion_outside_ml")
