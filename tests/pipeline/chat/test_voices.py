import json

import pytest

from data.errors import InputError
from pipeline.chat.voices import find_folder, open_run, talking_stages

CHAIN = {
    "corpus": "corpus",
    "tokenizer": "tokenizer",
    "pretrain": "pretrain",
    "sft": "sft",
    "reward": "reward",
    "ppo_free": "ppo",
    "ppo": "ppo",
    "evaluate": "evaluate",
}


def test_stages_that_hold_a_causal_model_talk_in_the_recipes_order(run_dir):
    folder = run_dir(CHAIN)
    assert talking_stages(folder) == {
        "base": folder / "stages" / "pretrain",
        "sft": folder / "stages" / "sft",
        "ppo_free": folder / "stages" / "ppo_free",
        "ppo": folder / "stages" / "ppo",
    }
    voices = open_run(folder)
    assert (voices.run, voices.default) == ("quickstart", "ppo")


def test_without_its_record_stages_are_known_by_their_names(run_dir):
    folder = run_dir({"ppo": "ppo", "dpo": "dpo", "sft": "sft", "pretrain": "pretrain"}, listed=False)
    assert list(talking_stages(folder)) == ["base", "sft", "ppo", "dpo"]


def test_the_base_is_known_by_its_kind_and_several_keep_their_names(run_dir):
    assert list(talking_stages(run_dir({"small": "pretrain", "sft": "sft"}))) == ["base", "sft"]


def test_several_pretrained_models_keep_their_names(run_dir):
    assert list(talking_stages(run_dir({"small": "pretrain", "big": "pretrain"}))) == ["small", "big"]


def test_a_stage_without_a_model_yet_does_not_talk(run_dir):
    voices = open_run(run_dir(CHAIN, unfinished=("ppo", "ppo_free")))
    assert voices.names == ("base", "sft")
    assert voices.default == "sft"


def test_an_adapter_talks(run_dir):
    folder = run_dir({"sft": "sft"})
    (folder / "stages/sft/model/config.json").rename(folder / "stages/sft/model/adapter_config.json")
    assert list(talking_stages(folder)) == ["sft"]


def test_an_unknown_stage_is_refused_with_those_there_are(run_dir):
    voices = open_run(run_dir(CHAIN))
    with pytest.raises(
        InputError, match='no stage "pp" that can talk; it has base, sft, ppo_free, ppo; did you'
    ):
        voices.pick("pp")
    with pytest.raises(InputError, match='no stage "reward"'):
        voices.pick("reward")
    with pytest.raises(InputError, match='"base" is named twice'):
        voices.check_all(["pretrain", "base"])
    with pytest.raises(InputError, match="no stage is named"):
        voices.check_all([])
    assert voices.check("pretrain") == "base"


def test_a_run_is_found_by_path_or_by_name(run_dir, monkeypatch):
    folder = run_dir(CHAIN)
    monkeypatch.chdir(folder.parent.parent)
    assert find_folder("quickstart").resolve() == find_folder(folder) == folder
    with pytest.raises(InputError, match=r"no run 'quickstrt'.*quickstart"):
        find_folder("quickstrt")


def test_a_folder_without_run_or_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"neither stages/ nor config\.json"):
        open_run(tmp_path)
    (tmp_path / "stages" / "corpus").mkdir(parents=True)
    with pytest.raises(InputError, match="has a model yet"):
        open_run(tmp_path)


def test_of_a_run_with_several_seeds_one_is_asked_for(tmp_path):
    (tmp_path / "seeds" / "0" / "stages").mkdir(parents=True)
    with pytest.raises(InputError, match=r"several seeds; name one of them: .*seeds/0"):
        open_run(tmp_path)


def test_a_model_folder_is_a_run_with_one_voice(tmp_path):
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"]}))
    assert open_run(tmp_path / "gpt").names == ("gpt",)
