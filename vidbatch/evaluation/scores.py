"""Class numbers and probabilities in; accuracy, precision, recall, F1, confusion and calibration out, by scikit-learn.

Of models that tell a number: numbers in, errors out. N rows (videos or windows), K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

CALIBRATION_BINS: Final = 10

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def scores_of(truth: Ints, probabilities: Floats, labels: Sequence[str]) -> dict[str, Any]:
    """Numbers for JSON. Args: `truth` int64 (N,), class numbers; `probabilities` float64 (N, K), rows sum to 1."""
    from sklearn import metrics

    if not len(truth):
        return {"count": 0}
    numbers = list(range(len(labels)))
    said = probabilities.argmax(1)
    of_class = metrics.precision_recall_fscore_support(truth, said, labels=numbers, zero_division=0)
    present = [number for number in numbers if (truth == number).any()]
    of_all = metrics.precision_recall_fscore_support(truth, said, labels=present, average="macro", zero_division=0)
    names = ("precision", "recall", "f1")
    return {
        "count": len(truth),
        "accuracy": float(metrics.accuracy_score(truth, said)),
        "top_5": _top_k(truth, probabilities, min(5, len(labels))),
        **{name: float(value) for name, value in zip(names, of_all, strict=False)},
        "calibration_error": calibration_error(said == truth, probabilities.max(1)),
        "by_class": {
            label: {name: float(of_class[at][number]) for at, name in enumerate(names)}
            | {"count": int(of_class[3][number])}
            for number, label in enumerate(labels)
        },
        "confusion": metrics.confusion_matrix(truth, said, labels=numbers).tolist(),
    }


def errors_of(truth: Floats, said: Floats) -> dict[str, Any]:
    """Numbers for JSON: mean absolute error and root mean squared error in the target's unit, and R².

    R², the share of the variance that is explained, is None for fewer than two rows. Args: float64 (N,).
    """
    from sklearn import metrics

    if not len(truth):
        return {"count": 0}
    return {
        "count": len(truth),
        "mean_absolute_error": float(metrics.mean_absolute_error(truth, said)),
        "root_mean_squared_error": float(metrics.root_mean_squared_error(truth, said)),
        "r2": float(metrics.r2_score(truth, said)) if len(truth) > 1 else None,
    }


def _top_k(truth: Ints, probabilities: Floats, k: int) -> float:
    from sklearn.metrics import top_k_accuracy_score

    if k >= probabilities.shape[1]:
        return 1.0
    return float(top_k_accuracy_score(truth, probabilities, k=k, labels=list(range(probabilities.shape[1]))))


def calibration_error(is_right: npt.NDArray[np.bool_], confidence: Floats) -> float:
    """Expected calibration error (Guo et al., 2017): mean distance of confidence and accuracy over equal bins."""
    from sklearn.calibration import calibration_curve

    accuracy, mean_confidence = calibration_curve(is_right, confidence, n_bins=CALIBRATION_BINS)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=CALIBRATION_BINS)  # as calibration_curve
    weights = counts[counts > 0] / len(confidence)
    return float((weights * np.abs(accuracy - mean_confidence)).sum())
