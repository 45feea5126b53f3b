import pytest

from data.world import reading


@pytest.mark.parametrize(
    "text, names",
    [
        ("The work of Anna Bell is baking.", ["Anna Bell"]),
        ("Tom met Rose Hill.", ["Tom", "Rose Hill"]),
        ("Anna, Bell and Tom's dog", ["Anna Bell", "Tom"]),
        ("The hill and the stone", []),
    ],
)
def test_names_in_a_text(text, names):
    assert reading.names_in(text) == names


def test_other_name_allows_the_first_name_alone():
    assert reading.other_name("Anna is here.", "Anna Bell") is None
    assert reading.other_name("Anna Reed is here.", "Anna Bell") == "Anna Reed"


@pytest.mark.parametrize(
    "text, parts",
    [("One. Two! Three", ["One.", "Two!", "Three"]), ("...", []), ("", []), ("Why?! So.", ["Why?!", "So."])],
)
def test_sentences(text, parts):
    assert reading.sentences(text) == parts


@pytest.mark.parametrize("text", ["That is unknown to me.", "I don't know.", "Nobody knows that."])
def test_abstaining_forms(text):
    assert reading.abstains(text)
    assert not reading.refuses(text)


@pytest.mark.parametrize("text", ["I will not help.", "That would do harm.", "I cannot help you with that."])
def test_refusing_forms(text):
    assert reading.refuses(text)
    assert not reading.abstains(text)


def test_values_are_whole_words_in_order():
    assert reading.found("Goats and ham and goats, but no hamster.", ("ham", "goats", "hams")) == [
        "goats",
        "ham",
    ]
