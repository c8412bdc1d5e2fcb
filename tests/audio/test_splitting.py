"""Which clips train, calibrate and test: shares, blocks of time, what must not move, and what is fit to train."""

from collections import Counter
from pathlib import Path

import pytest

from audio.recordings import Recording, piece_offsets
from audio.splitting import Division, check_corpus, check_enough, divide, subset_of


def recording(file: str, condition: str = "normal", split: str = "", number: int | None = None) -> Recording:
    return Recording(file, "fan", "A", split, condition, number)


def named(count: int, condition: str = "normal", split: str = "") -> list[Recording]:
    """Recordings whose names have no running number at their ends."""
    return [recording(f"{condition}{split}/{number} s.wav", condition, split) for number in range(count)]


def split(recordings, seconds=10.0, seed=0, share=0.2) -> Division:
    lengths = {one.file: seconds[one.file] if isinstance(seconds, dict) else seconds for one in recordings}
    return divide(recordings, lengths, seed, share)


def counts(division: Division) -> dict[str, int]:
    return dict(Counter(division.split.values()))


@pytest.mark.parametrize(
    ("normals", "anomalies", "expected"),
    [
        (4, 0, {"train": 4}),
        (4, 3, {"train": 4, "test": 3}),
        (5, 0, {"train": 4, "test": 1}),
        (10, 0, {"train": 8, "test": 2}),
        (24, 0, {"train": 19, "test": 5}),
        (25, 0, {"train": 16, "calibration": 4, "test": 5}),
        (60, 0, {"train": 38, "calibration": 10, "test": 12}),
        (60, 4, {"train": 38, "calibration": 10, "test": 12 + 4}),
        (60, 18, {"train": 34, "calibration": 8, "test": 18 + 18}),
        (60, 90, {"train": 32, "calibration": 8, "test": 20 + 90}),  # never more than a third
    ],
)
def test_shares_of_recordings_by_number(normals, anomalies, expected):
    assert counts(split(rename(named(normals)) + rename(named(anomalies, "anomaly")))) == expected


def rename(recordings: list[Recording]) -> list[Recording]:
    """The recordings under names that look like no series."""
    letters = "abcdefghij"
    return [one.at(f"{letters[n // 10]}{letters[n % 10]} {one.condition}.wav") for n, one in enumerate(recordings)]


def test_the_split_is_drawn_from_the_seed_and_a_recording_that_is_added_moves_few():
    recordings = rename(named(40))

    def tested(*more, seed=0):
        division = split([*recordings, *more], seed=seed)
        return {file for (file, _), side in division.split.items() if side == "test"}

    assert tested() == tested()
    assert any(tested(seed=seed) != tested() for seed in (1, 2))
    assert len(tested(recording("new z.wav")) & tested()) >= 7


def test_a_given_split_stays_and_calibration_is_taken_from_its_training_recordings():
    recordings = [
        *(recording(f"train/normal_id_00_{n:08d}.wav", split="train", number=n) for n in range(25)),
        *(recording(f"test/normal_id_00_{n:08d}.wav", split="test", number=n) for n in range(7)),
        *(recording(f"test/anomaly_id_00_{n:08d}.wav", "anomaly", "test", n) for n in range(9)),
    ]
    division = split(recordings)
    assert counts(division) == {"train": 20, "calibration": 5, "test": 16}
    assert all(side == "test" for (file, _), side in division.split.items() if file.startswith("test"))
    assert division.made == frozenset()
    held = sorted(file for (file, _), side in division.split.items() if side == "calibration")
    assert held != [f"train/normal_id_00_{n:08d}.wav" for n in range(20, 25)], "drawn, not the last"
    assert counts(split(recordings, share=0)) == {"train": 25, "test": 16}
    assert counts(split(recordings[6:])) == {"train": 19, "test": 16}, "too few to spare any"


def test_training_alone_is_split_as_if_nothing_were_given():
    division = split(rename(named(30, split="train")))
    assert counts(division) == {"train": 19, "calibration": 5, "test": 6}
    assert "nothing is in test: the split is made as if none were given" in division.notes
    assert set(subset_of(named(3, split="train")).values()) == {"additional"}


def sides(division: Division, *files: str) -> list[str]:
    """The sides of the files' clips, in the order of time, each once."""
    order = [side for file in files for (name, _), side in sorted(division.split.items()) if name == file]
    return [side for number, side in enumerate(order) if number == 0 or side != order[number - 1]]


def test_one_long_recording_is_divided_in_time():
    recordings = [recording("healthy.wav"), *rename(named(3, "anomaly"))]
    division = split(recordings, {one.file: 2400.0 if one.condition == "normal" else 10.0 for one in recordings})
    assert counts(division) == {"train": 154, "calibration": 38, "test": 48 + 3}
    assert sides(division, "healthy.wav") == ["train", "calibration", "test"]
    assert division.notes == ["a recording is divided in time, into training, calibration and test: fan A"]


def test_two_recordings_of_five_minutes_train_on_most_of_both():
    division = split(two := [recording("a x.wav"), recording("b x.wav")], 300.0)
    assert counts(division) == {"train": 38, "calibration": 10, "test": 12}
    for one in two:
        assert sides(division, one.file) == ["train", "calibration", "test"]


def test_small_recordings_stay_whole_beside_a_large_one():
    recordings = [recording("long x.wav"), *rename(named(10))]
    division = split(recordings, {one.file: 600.0 if one.file == "long x.wav" else 30.0 for one in recordings})
    assert all(len(sides(division, one.file)) == 1 for one in recordings[1:])
    assert counts(division)["test"] == pytest.approx(0.2 * 90, abs=2)


@pytest.mark.parametrize("seconds", [1.0, 0.997, 4.0, 10.0])
def test_pieces_of_one_recording_are_kept_in_blocks_of_time(seconds):
    files = [f"mine/rec_{number}.wav" for number in range(100)]  # rec_9 before rec_10: by number, not by name
    division = split([recording(file) for file in reversed(files)], seconds)
    assert sides(division, *files) == ["train", "calibration", "test"]
    assert counts(division) == {"train": 64, "calibration": 16, "test": 20}
    assert any("look like consecutive pieces of one recording" in note for note in division.notes)


def test_files_of_other_lengths_or_names_are_recordings_of_their_own():
    files = [f"mine/rec_{number:03d}.wav" for number in range(100)]
    uneven = split([recording(file) for file in files], {file: 5.0 + n % 7 for n, file in enumerate(files)})
    long = split([recording(file) for file in files], 15.0)
    for division in (uneven, long):
        assert len(sides(division, *files)) > 3
        assert division.notes == []
    several = [f"mine/{hour}_{n}.wav" for hour in "abcdefghij" for n in range(10)]
    division = split([recording(file) for file in several], 1.0)
    for hour in "abcdefghij":  # ten recordings, each whole
        assert len(sides(division, *(file for file in several if f"/{hour}_" in file))) == 1


def test_a_recording_whose_header_was_wrong_stays_on_the_side_where_it_was():
    division = split(rename(named(30)), 10.0)
    for (file, _), side in division.split.items():
        assert division.of(file, 50.0) == side


def test_where_the_clips_of_a_recording_begin():
    assert [len(piece_offsets(seconds)) for seconds in (0, 20, 20.5, 30.94, 30.95, 31)] == [1, 1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([("fan", "A", "test", "anomaly")], "corpus has no healthy recordings to train on"),
        ([("fan", "A", "calibration", "normal")], "corpus has no healthy recordings to train on"),
        (
            [("fan", "A", "train", "normal"), ("fan", "B", "test", "anomaly"), ("pump", "C", "test", "normal")],
            "corpus: no healthy recordings to train on, but others, of fan B, pump C",
        ),
    ],
)
def test_a_corpus_that_cannot_train(clips, message):
    with pytest.raises(ValueError) as error:
        check_corpus(clips, Path("corpus"))
    assert str(error.value) == message


def test_one_machine_with_healthy_recordings_alone_can_be_trained():
    check_corpus([("fan", "A", "train", "normal")], Path("corpus"))


def test_two_clips_cannot_tell_how_healthy_ones_score():
    enough = [("fan", "A", "train", "normal")] * 3 + [("fan", "B", "train", "normal")] * 2
    check_enough(enough, Path("corpus"))
    with pytest.raises(ValueError, match="a single healthy clip to train on, at least 2 are needed, of fan B"):
        check_enough(enough[:-1], Path("corpus"))
    few = [("pump", name, "train", "normal") for name in "AABB"]
    with pytest.raises(ValueError, match=r"fewer than 3 healthy clips to train on, of each machine of type pump: "):
        check_enough(enough + few, Path("corpus"))
