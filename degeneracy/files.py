"""How does a file appear whole or not at all?"""

import os
import tempfile
from pathlib import Path

PARTIAL = ".partial"  # ends the name of a file that is being written


class WriteError(OSError):
    """A file could not be written; what was there before is still there."""

    def __str__(self) -> str:
        return (
            f"cannot write {self.filename} ({self.strerror}); what was written before is as it was:"
            " make room on the disk, or make the folder writable, and start again"
        )


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes `content` to `path` so that a reader, now or after a crash, sees the old file or the
    whole new one.

    Raises:
        WriteError: The disk is full, or the folder cannot be written.
    """
    try:
        _write(Path(path), content)
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), os.fspath(path)) from error


def _write(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's file is for its owner alone
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself survives a power cut
    finally:
        os.close(directory)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
