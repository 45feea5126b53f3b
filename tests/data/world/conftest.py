import pytest

from data.world import Settings, World, build

SMALL = {"people": 40, "extra_never_people": 20, "scale": 0.05, "often": 23, "some": 11, "rarely": 3}


@pytest.fixture(scope="session")
def small_settings() -> Settings:
    return Settings(**SMALL)


@pytest.fixture(scope="session")
def small_world(small_settings: Settings) -> World:
    return build(small_settings, seed=7)


@pytest.fixture(scope="session")
def full_world() -> World:
    """A world with every task and the default people."""
    others = ("small_talk", "how_to", "towns", "follow_ups", "summaries", "sentiment", "arithmetic")
    return build(Settings(other_tasks=(*others, "translation", "notes", "games"), scale=0.1), seed=3)
