"""Judgements for the tests of what is done with them."""

from detection.detector import Verdict, Window
from detection.judging import Judgement


def judged(name: str = "a.wav", anomalous: bool = False, machine: str = "pump/id_00", **figures) -> Judgement:
    """A judgement with a verdict; `figures` are fields of the verdict."""
    machine_type, machine_id = machine.split("/")
    values = {
        "machine_type": machine_type,
        "machine_id": machine_id,
        "backend": "mahalanobis",
        "score": 2.5 if anomalous else -0.5,
        "threshold": 1.0,
        "p_value": 0.25,
        "n": 19,
        "alpha": 0.05,
        "anomalous": anomalous,
        "seconds": 20.0,
        "windows": (Window(0.0, 10.2, -0.5, False), Window(9.8, 20.0, 2.5, anomalous)),
        "calibration": "held out",
        "warnings": ("few calibration recordings",),
    } | figures
    return Judgement(name, Verdict(**values))
