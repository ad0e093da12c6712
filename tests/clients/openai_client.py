"""Runs the official OpenAI client against a server: openai_client.py http://127.0.0.1:5052

Exits with 0 if every check holds. It asserts shapes and promises, not texts: any model will do that fills gaps.
"""

import sys
import urllib.request

import openai

PREFIX = "def add(a, b):\n    return "
SUFFIX = "\n\n\nprint(add(1, 2))\n"


def check_models(client, model):
    found = client.models.list().data
    assert [entry.id for entry in found] == [model], found
    entry = client.models.retrieve(model)
    assert entry.object == "model" and entry.created > 1_700_000_000 and entry.owned_by, entry
    capabilities = entry.model_extra["capabilities"]
    assert capabilities["fim"] is True and capabilities["max_context"] > 0, capabilities


def check_whole(client, model):
    answer = client.completions.create(model=model, prompt=PREFIX, max_tokens=8, temperature=0)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-"), answer
    assert answer.model == model and answer.created > 1_700_000_000, answer
    (choice,) = answer.choices
    assert choice.index == 0 and choice.finish_reason in ("stop", "length"), choice
    assert choice.logprobs is None, choice
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    assert 0 <= usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens, usage
    assert usage.completion_tokens <= 8, usage


def check_suffix(client, model):
    options = dict(model=model, prompt=PREFIX, suffix=SUFFIX, max_tokens=16, temperature=0)
    whole = client.completions.create(**options)
    assert whole.choices[0].text, "nothing fills the gap"
    again = client.completions.create(**options)
    assert again.choices[0].text == whole.choices[0].text, "greedy, yet not repeatable"
    empty = client.completions.create(**{**options, "suffix": ""})
    assert empty.choices[0].finish_reason in ("stop", "length"), empty


def check_stream(client, model):
    options = dict(model=model, prompt=PREFIX, suffix=SUFFIX, max_tokens=16, temperature=0)
    whole = client.completions.create(**options)
    for include_usage in (False, True):
        extra = {"stream_options": {"include_usage": True}} if include_usage else {}
        events = list(client.completions.create(stream=True, **options, **extra))
        if include_usage:
            last = events.pop()
            assert last.choices == [], last
            assert last.usage.completion_tokens == whole.usage.completion_tokens, last
        assert all(len(event.choices) == 1 for event in events), events
        assert all(event.usage is None for event in events), events
        assert len({event.id for event in events}) == 1, events
        assert "".join(event.choices[0].text for event in events) == whole.choices[0].text, events
        reasons = [event.choices[0].finish_reason for event in events]
        assert reasons[-1] == whole.choices[0].finish_reason and set(reasons[:-1]) <= {None}, reasons


def check_several(client, model):
    answer = client.completions.create(model=model, prompt=[PREFIX, "import "], n=2, max_tokens=4, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3], answer
    options = dict(model=model, prompt=PREFIX, n=2, max_tokens=4, temperature=0.8, seed=7)
    first, second = (client.completions.create(**options) for _ in range(2))
    texts = [[choice.text for choice in answer.choices] for answer in (first, second)]
    assert texts[0] == texts[1], f"seeded, yet not repeatable: {texts}"
    echo = client.completions.create(model=model, prompt=PREFIX, echo=True, max_tokens=4)
    assert echo.choices[0].text.startswith(PREFIX), echo


def check_stop(client, model):
    options = dict(model=model, prompt=PREFIX, max_tokens=24, temperature=0)
    free = client.completions.create(**options).choices[0].text
    if len(free) >= 3:
        stop = free[1:3]
        cut = client.completions.create(stop=stop, **options).choices[0]
        assert cut.text == free[: free.index(stop)] and cut.finish_reason == "stop", (free, stop, cut)
        pieces = [event.choices[0].text for event in client.completions.create(stop=[stop], stream=True, **options)]
        assert "".join(pieces) == cut.text, (pieces, cut)
    many = client.completions.create(stop=[f"stop {number}" for number in range(32)], **options)
    assert many.choices[0].finish_reason in ("stop", "length"), many


def check_logprobs(client, model):
    answer = client.completions.create(model=model, prompt=PREFIX, logprobs=3, max_tokens=4, temperature=0)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None, answer
    num_tokens = len(logprobs.tokens)
    lengths = [len(logprobs.token_logprobs), len(logprobs.top_logprobs), len(logprobs.text_offset)]
    assert lengths == [num_tokens] * 3 and num_tokens > 0, logprobs
    assert all(value <= 0 for value in logprobs.token_logprobs), logprobs
    for token, value, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert 1 <= len(top) <= 4 and token in top, logprobs
        assert max(top.values()) <= value + 1e-3, "greedy, yet not the likeliest"
    assert logprobs.text_offset[0] == 0, logprobs


def check_errors(client, model):
    rows = [
        (openai.BadRequestError, "temperature", dict(model=model, prompt="x", temperature=3)),
        (openai.BadRequestError, "stop", dict(model=model, prompt="x", stop=["s"] * 33)),
        (openai.BadRequestError, "max_tokens", dict(model=model, prompt="x", max_tokens=0)),
        (openai.BadRequestError, "best_of", dict(model=model, prompt="x", best_of=3)),
        (openai.BadRequestError, "prompt", dict(model=model, prompt=[])),
        (openai.NotFoundError, "model", dict(model="no-such-model", prompt="x")),
    ]
    for kind, param, options in rows:
        for stream in (False, True):
            try:
                client.completions.create(stream=stream, **options)
            except kind as error:
                assert error.param == param and error.type == "invalid_request_error", error
                assert param in error.message, error
            else:
                raise AssertionError(f"{options} was not refused")
    try:
        client.models.retrieve("no-such-model")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error
    else:
        raise AssertionError("an unknown model was found")


def check_chat_gap(client, model):
    """A message that is a FIM prompt fills the gap, whatever family it is written for."""
    gap = dict(model=model, prompt=PREFIX, suffix=SUFFIX, max_tokens=16, temperature=0)
    expected = client.completions.create(**gap).choices[0].text
    for content in (
        f"<|fim_prefix|>{PREFIX}<|fim_suffix|>{SUFFIX}<|fim_middle|>",
        f"[SUFFIX]{SUFFIX}[PREFIX]{PREFIX}",
    ):
        options = dict(model=model, messages=[{"role": "user", "content": content}], max_tokens=16, temperature=0)
        whole = client.chat.completions.create(**options)
        assert whole.object == "chat.completion" and whole.id.startswith("chatcmpl-"), whole
        assert whole.choices[0].message.role == "assistant", whole
        assert whole.choices[0].message.content == expected, (whole, expected)
        events = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **options))
        last = events.pop()
        assert last.choices == [] and last.usage.total_tokens == whole.usage.total_tokens, last
        assert events[0].choices[0].delta.role == "assistant", events
        assert all(event.object == "chat.completion.chunk" for event in events), events
        assert "".join(event.choices[0].delta.content or "" for event in events) == expected, events
        assert events[-1].choices[0].finish_reason == whole.choices[0].finish_reason, events


def check_chat(client, model):
    """A model with a chat template answers; one without says so."""
    options = dict(model=model, messages=[{"role": "user", "content": "Hello <|im_end|>"}], max_completion_tokens=4)
    if client.models.retrieve(model).model_extra["capabilities"]["chat"]:
        answer = client.chat.completions.create(logprobs=True, top_logprobs=2, **options)
        assert answer.choices[0].finish_reason in ("stop", "length"), answer
        assert all(len(entry.top_logprobs) >= 1 for entry in answer.choices[0].logprobs.content), answer
        return
    try:
        client.chat.completions.create(**options)
    except openai.BadRequestError as error:
        assert error.param == "messages" and "/v1/completions" in error.message, error
    else:
        raise AssertionError("a model without a chat template answered a chat")


def check_close(client, model):
    """A stream that is closed early leaves the server as it was."""
    stream = client.completions.create(model=model, prompt=PREFIX, max_tokens=64, stream=True)
    next(iter(stream))
    stream.close()
    check_whole(client, model)


CHECKS = [
    check_models,
    check_whole,
    check_suffix,
    check_stream,
    check_several,
    check_stop,
    check_logprobs,
    check_chat_gap,
    check_chat,
    check_errors,
    check_close,
]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: openai_client.py BASE_URL")
    base_url = sys.argv[1].rstrip("/")
    with urllib.request.urlopen(f"{base_url}/health", timeout=10) as answer:
        assert answer.status == 200
    client = openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0, timeout=120)
    model = client.models.list().data[0].id
    for check in CHECKS:
        check(client, model)
        print(f"{check.__name__}: ok", flush=True)


if __name__ == "__main__":
    main()
