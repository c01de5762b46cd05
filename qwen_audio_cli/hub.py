"""Checkpoints of the Hugging Face hub: where they lie in its cache, and how they get there.

Where the cache is, which hub is asked and with whose token is huggingface_hub's own business
(HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE). It is imported when first needed.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, ModelError, UsageError
from .layout import (
    ADAPTER_CONFIG,
    CONFIG,
    INDEX,
    is_whole,
    main_name,
    small_names,
    weight_names,
)

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from tqdm import tqdm

LOG = logging.getLogger(__name__)

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
"""What a name on the hub looks like."""

_BEGINNING = re.compile(r"[0-9a-f]{7,39}")  # of a commit, as records name it
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_offline() -> bool:
    """Whether the environment forbids requests (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def find(repository: str, revision: str | None = None) -> Path | None:
    """The directory of a checkpoint that is wholly in the cache; asks nobody.

    `revision` is a branch, a tag or a commit, which may be cut to 7 digits or more.
    """
    from huggingface_hub import try_to_load_from_cache

    with _telling(repository, revision):
        cached = (
            try_to_load_from_cache(repository, name, revision=revision)
            for name in (CONFIG, ADAPTER_CONFIG)
        )
        found = next((path for path in cached if isinstance(path, str)), None)
        if found is not None:
            directory: Path | None = Path(found).parent
        else:
            directory = _cached_commit(repository, revision or "")
        return directory if directory is not None and is_whole(directory) else None


def pull(repository: str, revision: str | None = None) -> Path:
    """Fetch what the cache lacks of a revision (the newest, if none is named): its directory.

    Asks the hub what a branch or tag is now; the cache learns of that when all is there, so that an
    interrupted update leaves the earlier state. Files that were fetched wholly are not again.

    Raises ModelError for what is not on the hub or not for this user, where there is no connection
    and where the disk has too little room; ConfigError for what is no checkpoint.
    """
    found = find(repository, revision)
    if found is not None and (is_offline() or _COMMIT.fullmatch(revision or "")):
        return found
    if is_offline():
        raise ModelError(
            f"{_title(repository, revision)} is not on this machine, and HF_HUB_OFFLINE is set"
        )
    try:
        info = _ask(repository, revision)
    except ModelError as error:
        if found is None:
            raise
        LOG.warning("%s; what is here stays as it is", error)
        return found
    commit = str(info.sha)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    main = main_name(sizes)
    if main is None:
        raise ConfigError(f"{repository}: no model checkpoint ({CONFIG} is missing)")
    sharded = main == CONFIG and INDEX in sizes
    index = _fetch(repository, INDEX, commit) if sharded else None
    weights = weight_names(sizes, index)
    if not weights or not sizes.keys() >= set(weights):
        lacking = ", ".join(sorted(set(weights) - sizes.keys())) or "a *.safetensors file"
        raise ConfigError(f"{repository}: cannot be loaded: the hub has no {lacking}")
    _fetch_all(repository, commit, [*small_names(sizes), *weights], sizes)
    if not commit.startswith(revision or "-"):
        _fetch(repository, main, revision)  # it is there: this writes down what the name means
    return Path(_fetch(repository, main, commit)).parent


def _title(repository: str, revision: str | None) -> str:
    return repository if revision is None else f"{repository} at {revision}"


def _ask(repository: str, revision: str | None) -> ModelInfo:
    """What the hub has: the commit and the files with their sizes."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RevisionNotFoundError

    api, patience = HfApi(), constants.HF_HUB_ETAG_TIMEOUT
    with _telling(repository, revision):
        try:
            return api.model_info(
                repository, revision=revision, files_metadata=True, timeout=patience
            )
        except RevisionNotFoundError:
            if not _BEGINNING.fullmatch(revision or ""):
                raise
            commits = (commit.commit_id for commit in api.list_repo_commits(repository))
            whole = [commit for commit in commits if commit.startswith(str(revision))]
            if len(whole) != 1:
                raise
            return api.model_info(
                repository, revision=whole[0], files_metadata=True, timeout=patience
            )


def _fetch_all(
    repository: str, commit: str, names: Sequence[str], sizes: Mapping[str, int]
) -> None:
    """Fetch what the cache lacks of these files, one after the other.

    An interruption then loses a part of one file, not of all; the library fetches the parts of a
    large one side by side where the hub can serve them so.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from tqdm import tqdm

    lacking = [
        name
        for name in names
        if not isinstance(try_to_load_from_cache(repository, name, revision=commit), str)
    ]
    if not lacking:
        return
    total = sum(sizes[name] for name in lacking)
    _require_room(repository, Path(constants.HF_HUB_CACHE), total)
    count = f"{len(lacking)} file{'' if len(lacking) == 1 else 's'}"
    LOG.info("fetching %s at %s: %s, %s", repository, commit[:12], count, _bytes(total))
    shown = LOG.isEnabledFor(logging.INFO) and os.environ.get("TERM") != "dumb"
    # None: where standard error is a terminal.
    look: Any = {"unit": "B", "unit_scale": True, "leave": False, "dynamic_ncols": True}
    with tqdm(total=total, disable=None if shown else True, **look) as bar:
        for name in lacking:
            bar.set_postfix_str(name, refresh=False)
            _fetch(repository, name, commit, bar)


def _fetch(repository: str, name: str, revision: str | None, bar: tqdm[Any] | None = None) -> Path:
    """Fetch a file into the cache, unless it is there; a broken connection is taken up again."""
    from huggingface_hub import hf_hub_download

    share: Any = _share(bar)
    with _telling(repository, revision):
        path = hf_hub_download(repository, name, revision=revision, tqdm_class=share)
    return Path(path)


def _share(bar: tqdm[Any] | None) -> type:
    """What the library takes for the bar of one file: it moves the bar of all files, or none."""

    class Share:
        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> Share:
            return self

        def __exit__(self, *_: object) -> None: ...
        def close(self) -> None: ...
        def set_postfix_str(self, *_: object, **__: object) -> None: ...
        def set_transfer_postfix_str(self, *_: object, **__: object) -> None: ...
        def update_transfer(self, count: float = 1) -> None: ...
        def update(self, count: float = 1) -> None:
            if bar is not None:
                bar.update(count)

    return Share


def _cached_commit(repository: str, beginning: str) -> Path | None:
    """The cached directory of the one commit that begins so."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if not _BEGINNING.fullmatch(beginning):
        return None
    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))
    found = list((folder / "snapshots").glob(f"{beginning}*"))
    return found[0] if len(found) == 1 else None


def _require_room(repository: str, cache: Path, needed: int) -> None:
    """Raise ModelError where the disk has too little room."""
    place = next(path for path in (cache, *cache.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ModelError(
            f"{repository} takes {_bytes(needed)}, and the disk of {cache} has {_bytes(free)} "
            "free (HF_HOME names another place)"
        )


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


@contextmanager
def _telling(repository: str, revision: str | None) -> Iterator[None]:
    """Turn what the library raises into one line of ours, and keep it from logging its own."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    library = logging.getLogger("huggingface_hub")
    level = library.level
    if not LOG.isEnabledFor(logging.DEBUG):
        library.setLevel(logging.ERROR)
    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"'{repository}' is no name of a model: {_line(error)}") from error
    except HfHubHTTPError as error:
        raise ModelError(_refusal(error, repository, revision)) from error
    except OSError as error:
        if isinstance(cause := error.__cause__, HfHubHTTPError):
            raise ModelError(_refusal(cause, repository, revision)) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"{repository}: the disk is full; files that came wholly are kept"
            ) from error
        if error.errno is not None and error.filename is not None:  # of the cache
            raise ModelError(f"{error.filename}: {error.strerror}") from error
        raise ModelError(_breakdown(cause or error, repository)) from error
    except Exception as error:  # of whichever HTTP library it uses, and of its native code
        raise ModelError(_breakdown(error, repository)) from error
    finally:
        library.setLevel(level)


def _refusal(error: Any, repository: str, revision: str | None) -> str:
    """What the hub answered, and what can be done."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub = constants.ENDPOINT
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return (
            f"{repository} is gated: accept its terms at {hub}/{repository}, and give a token of "
            "that user (HF_TOKEN, or 'hf auth login')"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no revision '{revision or 'main'}'"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repository} is no directory here and no model on {hub}; one that is private needs "
            "a token (HF_TOKEN, or 'hf auth login')"
        )
    if status in (401, 403):
        return f"{hub} refuses the token it was given for {repository} (HTTP {status})"
    return f"{hub} answers HTTP {status} for {repository}: try again later"


def _breakdown(error: BaseException, repository: str) -> str:
    """What went wrong on the way to the hub."""
    from huggingface_hub import constants

    return (
        f"{repository} cannot be fetched from {constants.ENDPOINT}: "
        f"{type(error).__name__}: {_line(error)}"
    )


def _line(error: BaseException) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0].rstrip(".")
