"""Atomic, verified directories: staged, fsynced, a manifest with checksums last, one rename.

A directory saved here is either complete or absent, whatever kills the process; on load every file is
compared with its recorded size and SHA-256, and a damaged checkpoint gives way to the previous complete one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

MANIFEST = "manifest.json"
STAGING = (
    ".staging-"  # a folder of this prefix is unfinished and may be removed by whoever holds the run's lock
)
DISCARDED = ".discarded-"
SPARE_BYTES = 16 * 2**20  # kept free beside what a save needs, for metrics and logs

Manifest = dict[str, dict[str, Any]]


class StorageFault(RuntimeError):
    """The disk cannot take what must be saved; says how many bytes are needed and free; exit code 1."""


class Checkpoint(NamedTuple):
    """A verified checkpoint: the last step that it contains, and its folder."""

    step: int
    path: Path


def sha256(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file by a staging file, fsync and rename; readers see the old or the new content."""
    staging = path.with_name(f"{STAGING}{path.name}")
    raw = content.encode() if isinstance(content, str) else content
    try:
        with storage_errors(path, len(raw)), staging.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; a non-finite number is our mistake and raises ValueError."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def files_under(folder: Path, *, skip: Callable[[str], bool] = lambda name: False) -> list[str]:
    """Relative paths of the regular files under a folder, sorted; `skip` sees the first part of each path."""
    found: list[str] = []
    for root, folders, names in os.walk(folder):
        relative = Path(root).relative_to(folder)
        if relative == Path("."):
            folders[:] = [name for name in folders if not skip(name)]
            names = [name for name in names if not skip(name)]
        found.extend((relative / name).as_posix() for name in names)
    return sorted(found)


def manifest_of(folder: Path, names: list[str]) -> Manifest:
    """Size in bytes and SHA-256 of each named file."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names
    }


def damage(folder: Path, manifest: Manifest) -> str | None:
    """Compare files with a manifest: None when all verify, else what is wrong with the first bad one."""
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{name} has {size:,} bytes instead of {expected['bytes']:,}"
        if sha256(path) != expected["sha256"]:
            return f"{name} does not have the recorded SHA-256"
    return None


def verify(folder: Path) -> str | None:
    """Verify a folder by its own manifest: None when complete, else what is wrong."""
    record = read_manifest(folder)
    if record is None:
        return f"{MANIFEST} is missing or torn"
    return damage(folder, record["files"])


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A folder's manifest record, or None where there is none that can be read."""
    try:
        record = json.loads((folder / MANIFEST).read_bytes())
        return record if isinstance(record.get("files"), dict) else None
    except (OSError, ValueError, AttributeError):
        return None


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder of a tree, leaves first."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            fsync_path(Path(root, name))
        fsync_path(Path(root))


def remove(path: Path) -> None:
    """Remove a file or folder in two steps, so that a name is never seen half removed."""
    if path.is_dir() and not path.name.startswith((DISCARDED, STAGING)):
        doomed = path.with_name(f"{DISCARDED}{path.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        path = path.rename(doomed)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clean_strays(folder: Path) -> None:
    """Remove what a killed process left unfinished in a folder; the caller holds the run's lock."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith((STAGING, DISCARDED)):
                remove(path)


@contextmanager
def storage_errors(path: Path, num_bytes: int = 0) -> Iterator[None]:
    """Turn a full disk, quota or lost permission into a StorageFault that names the bytes needed."""
    try:
        yield
    except StorageFault:
        raise
    except Exception as error:
        reason = _storage_reason(error, path.parent)
        if reason is None:
            raise
        needed = f"; at least {num_bytes:,} bytes are needed" if num_bytes else ""
        raise StorageFault(
            f"cannot save {path.name}: {reason}{needed}, {free_bytes(path.parent):,} are free. "
            f"Make room or restore the permission; the same command continues from what is saved."
        ) from error


def _storage_reason(error: Exception, folder: Path) -> str | None:
    """Why the disk refused, or None where the error is another one."""
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
            return os.strerror(error.errno)
        ours = error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(folder)
        return os.strerror(error.errno) if ours and error.errno in (errno.EACCES, errno.EPERM) else None
    # safetensors and torch wrap the system's error in one of their own.
    found = re.search(
        r"No space left on device|File too large|Disk quota exceeded|file write failed", str(error)
    )
    return found[0] if found else None


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the file system of a path (or of its nearest parent)."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def require_space(path: Path, num_bytes: int) -> None:
    """Raise StorageFault when the disk of `path` has less than `num_bytes` and a small reserve free."""
    free = free_bytes(path)
    if num_bytes + SPARE_BYTES > free:
        raise StorageFault(
            f"not enough space to save {path.name}: {num_bytes + SPARE_BYTES:,} bytes are needed, {free:,} "
            f"are free. Make room; the same command continues from what is saved."
        )


def save_directory(
    target: Path, write: Callable[[Path], None], *, record: dict[str, Any] | None = None, needed: int = 0
) -> None:
    """Save a folder atomically: `write` fills a staging folder, which is flushed, listed and renamed.

    `record` is kept in the manifest beside the files' checksums; `needed` is checked against the free bytes
    before anything is written. On any error only the staging folder is removed. An existing target is
    replaced.
    """
    require_space(target.parent, needed)
    staging = target.with_name(f"{STAGING}{target.name}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with storage_errors(target, needed):
            staging.mkdir(parents=True)
            write(staging)
            fsync_tree(staging)
            files = manifest_of(staging, files_under(staging))
            write_json(staging / MANIFEST, {**(record or {}), "files": files})
            move_into_place(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def move_into_place(staging: Path, target: Path) -> None:
    """Rename a flushed file or folder to its final name and flush the parent; an old folder goes first."""
    if target.is_dir():
        remove(target)
    os.replace(staging, target)
    fsync_path(target.parent)


class CheckpointStore:
    """The checkpoints of one stage, `step-<n>` folders of which the newest `keep` are kept.

    `key` names what they were made for; a checkpoint of another key is never returned. `before_save` runs
    first in every save (the run flushes its metrics there); `say` receives fall-backs in words.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: str = "",
        keep: int = 2,
        before_save: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        assert keep >= 1, keep
        self.folder, self.key, self.keep = folder, key, keep
        self.before_save, self.say = before_save, say
        self._latest: Checkpoint | None = None

    def steps(self) -> list[int]:
        """Steps that have a folder, verified or not, ascending."""
        found = self.folder.glob("step-*") if self.folder.is_dir() else ()
        return sorted(int(path.name[5:]) for path in found if path.name[5:].isdecimal())

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:09d}"

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies; says which damaged ones it passed over; None without any."""
        if self._latest is None:
            for step in reversed(self.steps()):
                problem = self._problem(step)
                if problem is None:
                    self._latest = Checkpoint(step, self.path(step))
                    break
                self.say(f"checkpoint {self.path(step).name} is not used ({problem}); falling back")
        return self._latest

    def save(self, step: int, write: Callable[[Path], None], *, needed: int = 0) -> Path:
        """Save the state after `step` atomically and drop the oldest; log the step's metrics before."""
        self.before_save()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not needed and self._latest is not None and (record := read_manifest(self._latest.path)):
            needed = sum(entry["bytes"] for entry in record["files"].values())
        save_directory(self.path(step), write, record={"step": step, "key": self.key}, needed=needed)
        self._latest = Checkpoint(step, self.path(step))
        self._prune(step)
        return self.path(step)

    def _problem(self, step: int) -> str | None:
        record = read_manifest(self.path(step))
        if record is not None and record.get("key") != self.key:
            return "it was made for other settings, inputs or code"
        return verify(self.path(step))

    def _prune(self, newest: int) -> None:
        # A folder newer than the one just saved is a damaged one that was passed over.
        kept = [step for step in self.steps() if step <= newest][-self.keep :]
        for step in self.steps():
            if step not in kept:
                remove(self.path(step))


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write nested dicts, lists and tuples of tensors, numbers, strings and None to `state.*` in a folder.

    Tensors go to `state.safetensors` under their path ("optimizer/state/0/exp_avg"), the rest to
    `state.json`; no pickle. Integer dictionary keys and tuples survive. Raises TypeError for anything else.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    tree = _encode(state, "", tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(tree, ensure_ascii=False))


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote; tensors come on the CPU."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "state.safetensors")
    state = _decode(json.loads((folder / "state.json").read_text()), tensors)
    assert isinstance(state, dict)
    return state


def _encode(value: Any, path: str, tensors: dict[str, Any]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        while path in tensors:  # {"a/b": ...} beside {"a": {"b": ...}}
            path += "'"
        # A copy: safetensors refuses tensors that share memory, such as tied weights.
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, dict):
        items = [
            [key, _encode(item, f"{path}/{key}" if path else str(key), tensors)]
            for key, item in value.items()
        ]
        if not all(isinstance(key, str | int) for key, _ in items):
            raise TypeError(f"keys of {path or 'the state'} must be strings or integers")
        return {"dict": items}
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{path} holds a {type(value).__name__}; a state holds tensors, numbers, strings and None"
    )


def _decode(tree: Any, tensors: dict[str, Any]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
