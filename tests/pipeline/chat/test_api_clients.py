"""The API as others see it: the official client, and requests made up from the schema."""

import pytest

WAIT = 20.0


@pytest.fixture
def address(make_service, serving):
    return serving(make_service())


@pytest.fixture
def official(address):
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=WAIT) as client:
        yield client


def test_the_official_client_lists_answers_streams_and_continues(official):
    assert [model.id for model in official.models.list()] == ["base", "sft", "ppo"]
    messages = [{"role": "system", "content": "Count."}, {"role": "user", "content": "Begin at v"}]
    found = official.chat.completions.create(
        model="ppo", messages=messages, logprobs=True, top_logprobs=2, seed=3, temperature=0, max_tokens=3
    )
    choice = found.choices[0]
    assert choice.message.content == "wxy"
    assert choice.finish_reason == "length"
    assert [token.token for token in choice.logprobs.content] == ["w", "x", "y"]
    assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
    assert found.usage.completion_tokens == 3

    # The usual loop: the answer goes back as it came.
    further = [*messages, choice.message, {"role": "user", "content": "go on at x"}]
    assert official.chat.completions.create(model="ppo", messages=further).choices[0].message.content == "yz"

    stream = official.chat.completions.create(model="ppo", messages=messages, stream=True, stop=["z"])
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "wxy"
    assert chunks[-1].choices[0].finish_reason == "stop"

    text = official.completions.create(model="base", prompt="at w", max_tokens=50)
    assert text.choices[0].text == "xyz"
    streamed = official.completions.create(model="base", prompt="at w", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == "xyz"


def test_the_official_client_raises_its_own_errors(official):
    import openai

    with pytest.raises(openai.NotFoundError, match="it has base, sft, ppo"):
        official.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="temperature"):
        official.chat.completions.create(
            model="sft", messages=[{"role": "user", "content": "x"}], temperature=99
        )


@pytest.fixture(scope="module")
def schema_run():
    """Settings of the requests that are made up: few, and the same each time."""
    return {"max_examples": 40, "deadline": None, "derandomize": True, "database": None}


def test_made_up_requests_are_answered_as_the_schema_says(address, schema_run):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    seen = set()
    for operation in schema.get_all_operations():
        endpoint = operation.ok()

        @given(case=endpoint.as_strategy())
        @settings(**schema_run, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        def check(case):
            reply = case.call(base_url=address, timeout=WAIT)
            assert reply.status_code < 500, (case.body, reply.text)
            # A request can be of the schema and yet be none: a conversation that ends with the assistant.
            case.validate_response(reply, excluded_checks=[positive_data_acceptance])
            seen.add((case.path, reply.status_code))

        check()
    assert {path for path, _ in seen} >= {"/v1/chat/completions", "/api/reply", "/api/votes", "/v1/models"}
    assert any(status == 200 for _, status in seen)
