"""What tests share."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def program(name: str) -> str:
    """The path of a program of the system. Without it the test is skipped, or fails where RCMAE_REQUIRE names it.

    RCMAE_REQUIRE is a list of names with spaces between them; .ci/run sets it.
    """
    if path := shutil.which(name):
        return path
    if name in os.environ.get("RCMAE_REQUIRE", "").split():
        pytest.fail(f"{name} is not installed, and RCMAE_REQUIRE names it")
    pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="session")
def s3():
    """A bucket of an S3 server on this machine; the environment says how to reach it."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    with pytest.MonkeyPatch.context() as patch:
        server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="rc-mae")
        yield "s3://rc-mae"
        server.stop()


@pytest.fixture(scope="session")
def real_corpus() -> Path:
    """Folder of real recordings beside the repository; tests that need it are skipped, visibly, without it."""
    folder = ROOT.parent / "shared" / "corpora"
    if not (folder / "mimii_dcase").is_dir():
        pytest.skip(f"real recordings are not there: {folder}")
    return folder


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window, which notes what it loads and what its console says."""
    chromium, chromedriver = program("chromium"), program("chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking",
        "--window-size=1000,1400",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def field_files() -> Path:
    """Folder of files from the field on which the product once failed; without it, tests are skipped, visibly."""
    folder = ROOT.parent / "shared" / "field" / "files"
    if not folder.is_dir():
        pytest.skip(f"files from the field are not there: {folder}")
    return folder


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system lets no file of this process and its children grow beyond `size` bytes: a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Folder of a disk of 256 kB; tests are skipped where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
