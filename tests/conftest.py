"""What tests share."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_corpus() -> Path:
    """Folder of real recordings beside the repository; tests that need it are skipped, visibly, without it."""
    folder = ROOT.parent / "shared" / "corpora"
    if not (folder / "mimii_dcase").is_dir():
        pytest.skip(f"real recordings are not there: {folder}")
    return folder
