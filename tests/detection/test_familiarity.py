"""What is said of a recording that is unlike those known; tests/detection/test_detector.py has it with real sound."""

import numpy as np
import pytest

from detection.familiarity import Facts, Known

SECONDS_PER_FRAME = 0.032


@pytest.mark.parametrize(("frames", "said"), [(300, False), (281, True), (157, True), (900, False)])
def test_a_recording_that_is_shorter_than_all_known_is_said_to_be(frames, said):
    known = Known(np.zeros((3, 8)), np.array([313, 313, 400]))
    facts = Facts()
    facts.add(np.zeros((frames, 8)))
    told = list(known.strange(facts, lambda: np.arange(8.0), SECONDS_PER_FRAME))
    words = (
        f"{frames * 0.032:.1f} s long, the shortest recording known has 10.0 s: shorter ones raise more false alarms"
    )
    assert told == ([words] if said else [])
