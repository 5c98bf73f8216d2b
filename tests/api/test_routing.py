from __future__ import annotations

import asyncio

import pytest

from local_worker.api.choices import Choice
from local_worker.api.render import usage as usage_of
from local_worker.config import ServerConfig
from local_worker.economics.books import Order
from local_worker.engines.fake import Script
from local_worker.rules import EffortRule, When
from local_worker.types import Finish, FinishReason
from tests.api.conftest import SPEC

pytestmark = pytest.mark.anyio

QUESTION = "How much?"
AUTO = SPEC.model_copy(
    update={"default_effort": "auto", "probe": SPEC.probe.model_copy(update={"question": QUESTION})}
)
TRAINED = AUTO.model_copy(
    update={"probe": SPEC.probe.model_copy(update={"suffix": "<|im_start|>?"})}
)


def chooses(level, thought="because\n</think>\n\nHello."):
    return lambda prompt: level if QUESTION in prompt or prompt.endswith("?") else thought


@pytest.fixture
def auto_api(make_api):
    def make(level="low", *, thinking=AUTO, reply=None, **options):
        context = make_api(thinking=thinking, **options)

        class Opened:
            async def __aenter__(self):
                api = await context.__aenter__()
                api.engine.script = Script(reply=reply or chooses(level))
                return api

            async def __aexit__(self, *failure):
                return await context.__aexit__(*failure)

        return Opened()

    return make


@pytest.mark.parametrize("thinking", [AUTO, TRAINED])
@pytest.mark.parametrize(
    ("level", "budget"), [("none", 0), ("low", 16), ("medium", 64), ("high", 256)]
)
async def test_the_model_is_asked_and_gets_what_it_says(auto_api, thinking, level, budget):
    async with auto_api(level, thinking=thinking) as api:
        answer = (await api.chat("2+2?", max_tokens=1000)).json()
        reasoning = answer["reasoning"]
        assert (reasoning["effort"], reasoning["source"]) == (level, "model")
        assert reasoning["auto"]["by"] == "model"
        assert "1.00" in reasoning["auto"]["reason"]
        assert api.engine.requests[-1].thinking.budget == budget


async def test_what_asking_took_is_counted(auto_api):
    async with auto_api("low") as api:
        asked = (await api.chat("2+2?", reasoning_effort="auto")).json()
        fixed = (await api.chat("2+2?", reasoning_effort="low")).json()
        probe, real, _ = api.engine.requests
        alike = probe.continues_at
        assert probe.prompt_token_ids[:alike] == real.prompt_token_ids[:alike]
        assert alike > len(real.prompt_token_ids) - 40, "all but the generation prompt"
        tokens = len(probe.prompt_token_ids) - alike + 1
        assert asked["usage"]["router_tokens"] == tokens
        assert asked["reasoning"]["auto"]["router_tokens"] == tokens
        assert asked["usage"]["total_tokens"] == fixed["usage"]["total_tokens"] + tokens
        assert "router_tokens" not in fixed["usage"]
        assert "auto" not in fixed["reasoning"]
        assert asked["choices"] == fixed["choices"]


async def test_what_was_computed_to_ask_is_no_saving(auto_api):
    async with auto_api("low") as api:
        api.engine.cached_tokens = 7  # of the question and of the request alike
        usage = (await api.chat("2+2?")).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 7
    order = Order("r", "m", (), prompts=1, prompt_tokens=31, effort="low", most_cached=3)
    choice = Choice(finish=Finish(FinishReason.STOP, cached_tokens=30))
    assert usage_of(order, [choice])["prompt_tokens_details"] == {"cached_tokens": 3}


async def test_who_switches_thinking_on_is_not_asked_about(auto_api):
    async with auto_api("none") as api:
        for switch in ({"enable_thinking": True}, {"thinking": {"type": "enabled"}}):
            reasoning = (await api.chat(**switch)).json()["reasoning"]
            assert reasoning["effort"] == "medium"
            assert "auto" not in reasoning


async def test_a_stream_reports_it_too(auto_api):
    async with auto_api("none") as api:
        options = {"include_usage": True}
        text = (await api.chat("2+2?", stream=True, stream_options=options)).text
        assert '"by":"model"' in text
        (usage,) = [line for line in text.splitlines() if '"usage"' in line]
        assert '"router_tokens"' in usage


async def test_no_thought_leaves_the_prompt_as_it_is_and_closes_it(auto_api):
    async with auto_api("none") as api:
        await api.chat("2+2?")
        await api.chat("2+2?", reasoning_effort="high")
        _, none, high = api.engine.requests
        closer = await api.engine.tokenize([])
        closer = none.prompt_token_ids[len(high.prompt_token_ids) :]
        assert none.prompt_token_ids[: len(high.prompt_token_ids)] == high.prompt_token_ids
        assert await api.engine.detokenize(closer) == SPEC.close
        assert not none.thinking.starts_inside


async def test_a_choice_sticks_to_its_conversation(auto_api):
    async with auto_api("high") as api:
        first = [{"role": "user", "content": "2+2?"}]
        later = [*first, {"role": "assistant", "content": "4"}, {"role": "user", "content": "+2?"}]
        await api.chat(messages=first)
        api.engine.script = Script(reply=chooses("none"))
        known = (await api.chat(messages=later)).json()
        assert known["reasoning"]["effort"] == "high"
        assert known["reasoning"]["auto"]["by"] == "conversation"
        assert "router_tokens" not in known["usage"]
        assert (await api.chat("Another one?")).json()["reasoning"]["effort"] == "none"
        keyed = {"prompt_cache_key": "k"}
        assert (await api.chat("A?", **keyed)).json()["reasoning"]["auto"]["by"] == "model"
        assert (await api.chat("B?", **keyed)).json()["reasoning"]["auto"]["by"] == "conversation"


async def test_what_is_no_choice_does_not_stick(auto_api):
    async with auto_api(reply=lambda _: "zzz") as api:
        keyed = {"prompt_cache_key": "k"}
        await api.chat(**keyed)
        api.engine.script = Script(reply=chooses("low"))
        assert (await api.chat(**keyed)).json()["reasoning"]["auto"]["by"] == "model"


async def test_an_engine_that_cannot_favour_tokens_is_not_asked(auto_api):
    async with auto_api("low", limits=(("logit_bias", "speculation has none"),)) as api:
        assert (await api.chat()).json()["reasoning"]["effort"] == "medium"
        assert (await api.chat(reasoning_effort="auto")).status_code == 400


async def test_rules_come_first(auto_api):
    rules = (
        EffortRule(name="audits", when=When(metadata={"team": "audit"}), effort="high"),
        EffortRule(name="short", when=When(prompt_tokens_below=60), effort="none"),
    )
    async with auto_api("low", config=ServerConfig(effort_rules=rules)) as api:
        ruled = (await api.chat("2+2?", metadata={"team": "audit"})).json()["reasoning"]
        assert ruled["effort"] == "high"
        assert ruled["auto"] == {"by": "rule", "reason": "audits", "router_tokens": 0}
        assert len(api.engine.requests) == 1
        assert (await api.chat("2+2?")).json()["reasoning"]["effort"] == "none"
        assert (await api.chat("2+2? " * 20)).json()["reasoning"]["effort"] == "low"
        fixed = (await api.chat("2+2?", reasoning_effort="medium")).json()["reasoning"]
        assert fixed["effort"] == "medium", "rules are for requests that leave it open"


async def test_the_operators_level_is_for_those_who_name_none(auto_api):
    async with auto_api("high", config=ServerConfig(default_effort="low")) as api:
        assert (await api.chat()).json()["reasoning"]["effort"] == "low"
        assert (await api.chat(reasoning_effort="auto")).json()["reasoning"]["effort"] == "high"
        adaptive = {"thinking": {"type": "adaptive"}}
        assert (await api.chat(**adaptive)).json()["reasoning"]["effort"] == "high"


async def test_the_ceiling_holds_over_the_models_choice(auto_api):
    async with auto_api("high", config=ServerConfig(max_thinking_tokens=5)) as api:
        assert (await api.chat()).json()["reasoning"]["budget_tokens"] == 5


async def test_a_question_goes_into_the_users_last_message_or_one_of_its_own(auto_api):
    async with auto_api("low") as api:
        await api.chat("2+2?")
        await api.chat(
            messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        )
        asked = [await api.engine.detokenize(r.prompt_token_ids) for r in api.engine.requests[::2]]
        assert f"2+2?\n\n{QUESTION}" in asked[0]
        assert f"<|im_start|>user\n{QUESTION}" in asked[1]


async def test_a_model_that_names_no_level_gets_the_middle(auto_api):
    async with auto_api(reply=lambda _: "zzz") as api:
        reasoning = (await api.chat()).json()["reasoning"]
        assert (reasoning["effort"], reasoning["auto"]["by"]) == ("medium", "default")


async def test_where_the_question_has_no_room_it_is_not_asked(auto_api):
    wordy = AUTO.model_copy(update={"probe": AUTO.probe.model_copy(update={"question": "?" * 99})})
    async with auto_api("high", thinking=wordy, max_model_len=120) as api:
        reasoning = (await api.chat("x" * 40)).json()["reasoning"]
        assert (reasoning["effort"], reasoning["auto"]["by"]) == ("none", "default")
        assert len(api.engine.requests) == 1


async def test_labels_that_begin_alike_cannot_be_told_apart(auto_api):
    labels = {"none": "little", "high": "lots"}
    thinking = AUTO.model_copy(update={"probe": AUTO.probe.model_copy(update={"labels": labels})})
    async with auto_api("low", thinking=thinking) as api:
        answer = await api.chat(reasoning_effort="auto")
        assert answer.status_code == 400
        assert "cannot be had" in answer.json()["error"]["message"]
        assert (await api.chat()).json()["reasoning"]["effort"] == "medium"


async def test_a_model_that_does_not_think_takes_auto_for_none(make_api):
    async with make_api("Hi.", thinking=None) as api:
        answer = (await api.chat(reasoning_effort="auto")).json()
        assert answer["reasoning"]["effort"] == "none"
        assert len(api.engine.requests) == 1


async def test_asking_counts_as_a_sequence_in_flight(auto_api):
    async with auto_api("low", config=ServerConfig(max_queue=1)) as api:
        api.engine.script.token_delay = 0.05
        first = asyncio.create_task(api.chat("a"))
        await asyncio.sleep(0.02)
        second = await api.chat("b")
        assert second.status_code == 429
        assert (await first).status_code == 200
        assert api.state.admission.in_flight == 0


async def test_an_engine_that_fails_while_it_is_asked_is_an_error(auto_api):
    async with auto_api("low") as api:
        api.engine.script.fail = RuntimeError("no")
        assert (await api.chat()).status_code == 500
        assert api.state.admission.in_flight == 0


async def test_decisions_are_in_the_metrics(auto_api):
    async with auto_api("low") as api:
        await api.chat()
        text = api.state.metrics.text().decode()
        assert 'local_worker_auto_decisions_total{by="model",effort="low"} 1.0' in text
        assert "local_worker_router_tokens_total" in text
        assert 'local_worker_thinking_tokens_total{closed_by="model",effort="low"}' in text


@pytest.mark.parametrize(
    "fields", [{"stop": [""]}, {"logit_bias": {"x": 1}}, {"top_logprobs": 3}, {"temperature": 9}]
)
async def test_what_is_wrong_anyway_is_refused_before_the_model_is_asked(auto_api, fields):
    async with auto_api("low") as api:
        assert (await api.chat("2+2?", **fields)).status_code == 400
        assert api.engine.requests == []
