from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from data.errors import InputError
from data.settings import Settings
from pipeline.config import explain_setting, load_yaml, redact, redact_text, validate
from pipeline.graph import dump_yaml
from pipeline.keys import shown
from pipeline.strict_yaml import MAX_BYTES, read


class Term(Settings):
    weight: float = Field(1.0, ge=0, description="Share of the term.")


class Config(Settings):
    learning_rate: float = Field(1e-4, gt=0, description="Step size at its highest.")
    num_steps: int = Field(5, ge=1)
    title: str = "x"
    optimizer: Literal["adamw", "muon"] = "adamw"
    terms: tuple[Term, ...] = ()
    flag: bool = False
    either: int | str | None = None
    width: int = 8
    heads: int = 2
    api_key: str | None = None

    @model_validator(mode="after")
    def _heads_divide(self):
        if self.width % self.heads:
            raise ValueError(
                f"heads {self.heads} must divide width {self.width} ({self.width % self.heads} is left)"
            )
        return self


def settings(text):
    node, problems = load_yaml(text)
    found, others = validate(Config, node, "stages.sft")
    return found, problems + others


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=20), plain, min_size=1, max_size=4))
@example({"text": ["0E0", "1e5", "-.5E3", "1_000", "0x1f", "012", "12:30", "=", "no", "null", ""]})
def test_what_is_dumped_reads_back(value):
    node, problems = load_yaml(dump_yaml(value))
    assert problems == []
    assert node.plain() == value


@given(st.text() | st.text(alphabet=" \n\t:-[]{}&*!|>'\"%#?@`,ab01") | st.binary(max_size=50))
def test_any_text_is_read_or_refused_in_words(text):
    problem = "recipe.yaml"
    try:
        read(text, "recipe.yaml")
    except InputError as error:
        problem = str(error)
    assert problem.startswith("recipe.yaml")


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.none())
def test_a_shown_number_reads_back(value):
    assert load_yaml(shown(value))[0].value == value


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-5", 1e-5),
        ("1E-5", 1e-5),
        (".5", 0.5),
        ("+2.", 2.0),
        ("-3e2", -300.0),
        ("1e5", 100000.0),
        ("1e+2", 100),
    ],
)
def test_yaml_12_numbers_are_numbers(text, number):
    assert load_yaml(text)[0].value == number


def test_an_exponent_may_stand_where_a_whole_number_is_meant():
    found, problems = settings("{num_steps: 1e5, learning_rate: 1e-5}")
    assert problems == []
    assert (found.num_steps, type(found.num_steps), found.learning_rate) == (100_000, int, 1e-5)


@pytest.mark.parametrize(
    "text",
    ["no", "on", "Off", "YES", "y", "012", "012.5", "-007", "0o7", "0x1f", "12:30", "1_000", "2026-01-01"],
)
def test_words_of_yaml_11_stay_text(text):
    assert load_yaml(text)[0].value == text


@pytest.mark.parametrize("text", ["no", "012", "12", "1e5", "true", "12:30", "null-ish", ".5"])
def test_an_unquoted_scalar_is_text_where_text_is_meant(text):
    found, problems = settings(f"title: {text}")
    assert problems == []
    assert found.title == text


def test_a_union_takes_the_number_first():
    assert settings("either: 12")[0].either == 12
    assert settings("either: 012")[0].either == "012"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_steps: true", "text:1: stages.sft.num_steps must be a valid integer; found `true`"),
        ("num_steps: '5'", "num_steps must be a valid integer; found '5'"),
        ("num_steps: 012", "num_steps must be a valid integer; found `012`"),
        ("flag: 1", "flag must be a valid boolean; found `1`"),
        ("flag: no", "flag must be a valid boolean; found `no`"),
        ("learning_rate: .nan", "learning_rate must be a finite number; found `.nan`"),
        ("learning_rate: 1e999", "learning_rate must be a finite number"),
        ("learning_rate: -1", "learning_rate must be greater than 0; found `-1`"),
        ("num_steps: 0", "num_steps must be greater than or equal to 1; found `0`"),
        ("optimizer: adamx", "'adamw' or 'muon'; found `adamx`; did you mean `adamw`"),
        ("{width: 10, heads: 4}", "heads 4 must divide width 10 (2 is left)"),
        ("terms: [{weight: 1}, {wieght: 2}]", "terms.1 has no setting `wieght`; did you mean `weight`"),
        ("title: {a: 1}", "title must be a valid string"),
        ("terms: 3", "terms must be a list; found `3`"),
        ("- 1", "must be `key: value` lines"),
    ],
)
def test_a_bad_value_is_refused_with_place_rule_and_finding(text, message):
    found, problems = settings(text)
    assert found is None
    assert message in "\n".join(problems)


def test_all_problems_come_at_once_each_with_its_line():
    found, problems = settings(
        "learnin_rate: 3\nnum_steps: 0\ntitle: ok\noptimizer: sgd\nterms:\n  - weight: -1\n"
    )
    assert found is None
    assert sorted(problem.split(" ")[0] for problem in problems) == [
        "text:1:",
        "text:2:",
        "text:4:",
        "text:6:",
    ]
    assert "did you mean `learning_rate`?" in "\n".join(problems)


@pytest.mark.parametrize("bad", ["learning_rate: -1", "learnin_rate: 1", "num_steps: x"])
def test_a_broken_rule_is_not_hidden_by_a_bad_value_beside_it(bad):
    _, problems = settings(f"{{width: 10, heads: 4, {bad}}}")
    assert len(problems) == 2
    assert "heads 4 must divide width 10" in problems[1]


def test_a_default_that_stands_for_a_bad_value_breaks_no_rule():
    _, problems = settings("{width: 7, heads: x}")
    assert problems == ["text:1: stages.sft.heads must be a valid integer; found `x`"]


def test_a_duplicate_key_names_both_lines():
    _, problems = settings("title: a\nflag: true\ntitle: b\n")
    assert problems == ["text:3: `title` is given twice, first in line 1; remove one"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("a: &x 1", "anchor or alias"),
        ("a: *x", "anchor or alias"),
        ("a: [&a [x], *a, *a]", "anchor or alias"),
        ("a: !!python/object/apply:os.system [echo]", "a tag"),
        ("!!map {a: 1}", "a tag"),
        ("a: !local 1", "a tag"),
        ("a:\n\tb: 1", "text:2: a tab"),
        ("a: 1\n---\nb: 2", "text:2: a second document"),
        ("%YAML 1.1\n---\na: 1", "a directive"),
        ("[" * 4000, "nested deeper than"),
        ("a: [1", "text:1: not valid YAML"),
        ("? [a]\n: 1", "a key that is not plain text"),
        ('a: "\\ud800"', "lone surrogate"),
        ("a: 1\nb: x\0y", "text:2: the character U+0000 cannot stand in YAML"),
        ("a: \x1b[31m", "text:1: the character U+001B cannot stand in YAML"),
        ("a: " + "[0,0,0,0,0,0,0,0],\n" * 1, "not valid YAML"),
        ("a: [" + "0," * 30_000 + "]", "more than"),
        ("a" * (MAX_BYTES + 1), "at most"),
    ],
)
def test_what_could_surprise_is_refused(text, message):
    with pytest.raises(InputError, match="text") as caught:
        load_yaml(text)
    assert message in str(caught.value)


def test_bytes_that_are_no_utf_8_are_refused_with_their_place():
    with pytest.raises(InputError, match=r"recipe\.yaml:2: byte 8 .0xff"):
        read(b"b: 1\na: \xff", "recipe.yaml")


def test_windows_line_ends_and_a_byte_order_mark_are_accepted():
    assert load_yaml("\ufefflearning_rate: 1e-5\r\ntitle: a\r\n")[0].plain() == {
        "learning_rate": 1e-5,
        "title": "a",
    }


@pytest.mark.parametrize(
    "secret", ["hf_abcdefghijklmnopqrstuv", "sk-abcdefghijklmnopqrstuv", "ghp_abcdefghijklmnopqrstuv"]
)
def test_secrets_are_redacted_by_form(secret):
    assert secret not in redact_text(f"login with {secret} failed")
    assert "me:pw" not in redact_text("https://me:pw@host/x")


def test_secrets_are_redacted_by_name_and_counts_of_tokens_are_not():
    value = {
        "hf_token": "x",
        "token": "y",
        "api_key": "z",
        "max_tokens": 5,
        "end_token": "<e>",
        "n": [{"password": "p"}],
    }
    assert redact(value) == {
        "hf_token": "<redacted>",
        "token": "<redacted>",
        "api_key": "<redacted>",
        "max_tokens": 5,
        "end_token": "<e>",
        "n": [{"password": "<redacted>"}],
    }


@pytest.mark.parametrize(
    "name", ["hfToken", "HF_TOKEN", "auth", "X-Auth-Token", "bearer", "apiKey", "PASSWORD"]
)
def test_a_secret_is_known_by_its_name_in_any_case(name):
    assert redact({name: "x"}) == {name: "<redacted>"}


@pytest.mark.parametrize("name", ["author", "endToken", "max-tokens", "tokenizer"])
def test_names_that_are_no_secrets_are_kept(name):
    assert redact({name: "x"}) == {name: "x"}


def test_a_secret_is_not_shown_in_a_problem():
    _, problems = settings("api_key: [hunter2]")
    assert len(problems) == 1
    assert "hunter2" not in problems[0]


def test_explain_names_meaning_default_and_range():
    assert explain_setting(Config, ["learning_rate"]) == {
        "key": "learning_rate",
        "meaning": "Step size at its highest.",
        "default": 1e-4,
        "accepts": "a number, > 0",
    }
    assert explain_setting(Config, ["terms", "weight"])["accepts"] == "a number, >= 0"
    assert explain_setting(Config, ["optimizer"])["accepts"] == "adamw | muon"
    with pytest.raises(InputError, match="did you mean `learning_rate`"):
        explain_setting(Config, ["learnin_rate"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-4, "1e-4"), (5e-5, "5e-5"), (0.05, "0.05"), (True, "true"), (None, "null"), (2.5e9, "2.5e9")],
)
def test_settings_are_shown_as_one_writes_them(value, text):
    assert shown(value) == text
