"""What the paper leaves open and how this run reads it."""

from pathlib import Path

import yaml


def decisions(settings: list[dict]) -> list[dict]:
    """Every decision: about, paper, reading, and the param that it is, with its value in this run, where there is one.

    Raises ValueError if a decision names a param that is not among `settings` (dicts with key and value).
    """
    values = {setting["key"]: setting["value"] for setting in settings}
    found = yaml.safe_load((Path(__file__).parent / "decisions.yaml").read_text(encoding="utf-8"))
    for decision in found:
        if (param := decision.setdefault("param", None)) is not None:
            if param not in values:
                raise ValueError(f"decision {decision['about']!r} names {param}, which is no parameter")
            decision["value"] = values[param]
    return found
