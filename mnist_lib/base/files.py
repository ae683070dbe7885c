"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


class FileError(RuntimeError):
    """A file cannot be written."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`: a reader, or a crash, sees the old file or the new one.

    Raises:
        FileError: the folder cannot be made or written, or the disk is full.
    """
    replace_all({path: content})


def replace_all(contents: Mapping[Path, bytes]) -> None:
    """Write all files beside their places, then put them there: when the disk is full, none is replaced."""
    scratches: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, scratches[path] = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(scratches[path], 0o644)
        for path, scratch in scratches.items():
            os.replace(scratch, path)
    except OSError as error:
        raise FileError(f"{path} could not be written: {error}") from error
    finally:
        for scratch in scratches.values():  # those that were not put in their places: an error, or Ctrl-C
            with suppress(OSError):
                os.unlink(scratch)
