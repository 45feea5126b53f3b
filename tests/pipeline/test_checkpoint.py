import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from pipeline import checkpoint
from pipeline.checkpoint import CheckpointStore, StorageFault, load_state, save_directory, save_state, verify


def writer(text):
    def write(folder):
        (folder / "sub").mkdir()
        (folder / "weights").write_text(text)
        (folder / "sub" / "optimizer").write_text(text * 2)

    return write


@pytest.fixture
def said():
    return []


@pytest.fixture
def store(tmp_path, said):
    made = CheckpointStore(tmp_path / "checkpoints", key="k", say=said.append)
    for step in (2, 3, 5):
        made.save(step, writer(f"state {step}"))
    return made


def reopened(store, key="k"):
    return CheckpointStore(store.folder, key=key, say=store.say)


def test_the_newest_two_are_kept_and_verify(store):
    assert store.steps() == [3, 5]
    assert reopened(store).latest() == (5, store.path(5))
    assert verify(store.path(5)) is None


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped", "missing", "no manifest", "torn manifest", "longer"]
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_says_so(store, said, damage):
    weights, manifest = store.path(5) / "weights", store.path(5) / "manifest.json"
    raw = weights.read_bytes()
    {
        "truncated": lambda: weights.write_bytes(raw[:-1]),
        "flipped": lambda: weights.write_bytes(bytes([raw[0] ^ 1]) + raw[1:]),
        "missing": (store.path(5) / "sub" / "optimizer").unlink,
        "no manifest": manifest.unlink,
        "torn manifest": lambda: manifest.write_bytes(manifest.read_bytes()[:40]),
        "longer": lambda: weights.write_bytes(raw + b"x"),
    }[damage]()
    assert reopened(store).latest() == (3, store.path(3))
    assert len(said) == 1
    assert "step-000000005 is not used" in said[0]


def test_a_checkpoint_of_other_settings_is_never_used(store, said):
    assert reopened(store, key="other").latest() is None
    assert "made for other settings" in said[0]


def test_saving_again_replaces_the_damaged_checkpoint(store):
    (store.path(5) / "weights").write_text("bad")
    again = reopened(store)
    assert again.latest().step == 3
    again.save(5, writer("again"))
    assert reopened(store).latest() == (5, store.path(5))
    assert verify(store.path(3)) is None


def test_saving_an_earlier_step_drops_the_damaged_newer_one(store):
    (store.path(5) / "weights").write_text("bad")
    again = reopened(store)
    again.latest()
    again.save(4, writer("four"))
    assert again.steps() == [3, 4]


def test_an_error_in_a_save_leaves_the_previous_one_and_no_staging(store):
    def fails(folder):
        (folder / "weights").write_text("half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(
        StorageFault, match=r"cannot save step-000000007: No space left.*[0-9,]+ bytes are needed"
    ):
        store.save(7, fails)
    assert sorted(path.name for path in store.folder.iterdir()) == ["step-000000003", "step-000000005"]


def test_a_full_disk_behind_a_library_is_recognised(tmp_path):
    def fails(folder):
        raise RuntimeError('IoError(Os { code: 28, message: "No space left on device" })')

    with pytest.raises(StorageFault, match="No space left"):
        save_directory(tmp_path / "x", fails)


def test_a_missing_permission_of_another_file_is_not_called_a_failed_save(tmp_path):
    def fails(folder):
        raise PermissionError(errno.EACCES, "denied", "/elsewhere/data")

    with pytest.raises(PermissionError):
        save_directory(tmp_path / "x", fails)


def test_space_is_checked_before_a_byte_is_written(store, monkeypatch):
    monkeypatch.setattr(checkpoint, "free_bytes", lambda path: checkpoint.SPARE_BYTES + 10)
    with pytest.raises(StorageFault, match=r"16,777,237 bytes are needed, 16,777,226 are free"):
        store.save(7, writer("x" * 100), needed=21)
    assert store.steps() == [3, 5]


def test_a_real_limit_of_the_system_stops_a_save_with_the_previous_intact(store):
    code = (
        "import resource, signal, sys; from pathlib import Path; from pipeline.checkpoint import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "store = CheckpointStore(Path(sys.argv[1]), key='k')\n"
        "try: store.save(7, lambda folder: (folder / 'big').write_bytes(bytes(9000)))\n"
        "except StorageFault as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(store.folder)], capture_output=True, text=True)
    assert "cannot save step-000000007: File too large" in result.stdout, result.stderr
    assert reopened(store).latest().step == 5
    assert store.steps() == [3, 5]


def test_what_a_killed_save_left_is_removed(store):
    (store.folder / ".staging-step-000000007").mkdir()
    (store.folder / ".discarded-step-000000001").mkdir()
    checkpoint.clean_strays(store.folder)
    assert sorted(os.listdir(store.folder)) == ["step-000000003", "step-000000005"]


def test_state_survives_with_types_ties_and_integer_keys(tmp_path):
    shared = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    state = {
        "model": {"a": shared, "b": shared, "scalar": torch.tensor(1.5), "empty": torch.empty(0, 7)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(3)}, 11: {}},
            "groups": [{"lr": 1e-4, "betas": (0.9, 0.95)}],
        },
        "random": torch.get_rng_state(),
        "position": [1, 2**70, -0.0, float("inf"), None, True, "ä\n", ()],
        "a/b": {"c": 1},
        "": [],
    }
    save_state(tmp_path, state)
    found = load_state(tmp_path)
    assert torch.equal(found["model"]["b"], shared)
    assert found["model"]["a"].dtype == torch.bfloat16
    assert found["model"]["empty"].shape == (0, 7)
    assert torch.equal(found["random"], state["random"])
    assert list(found["optimizer"]["state"]) == [0, 11]
    assert found["optimizer"]["groups"] == state["optimizer"]["groups"]
    assert found["position"] == state["position"]
    assert (found["a/b"], found[""]) == ({"c": 1}, [])


def test_equal_states_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        save_state(tmp_path / name, {"b": torch.ones(3), "a": {"x": torch.zeros(2), "y": 0.1}})
    for file in ("state.safetensors", "state.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("value", [object(), {1.5: 2}, {1, 2}, torch.nn.Linear(1, 1)])
def test_a_state_of_other_things_is_refused(tmp_path, value):
    with pytest.raises(TypeError):
        save_state(tmp_path, {"x": value})


def test_no_two_tensors_share_a_name(tmp_path):
    state = {"a/b": torch.zeros(2), "a": {"b": torch.ones(3)}}
    save_state(tmp_path, state)
    found = load_state(tmp_path)
    assert found["a/b"].shape == (2,)
    assert found["a"]["b"].shape == (3,)


def test_an_atomic_write_that_fails_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    checkpoint.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        checkpoint.write_json(path, {"a": float("nan")})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFault):
        checkpoint.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["run.json"]
