"""Drives RateGuard with the official Python SDKs and checks what each call cost.

The expected cost comes from genai-prices' own calculator, fed with the usage that the
SDK saw: an implementation of prices that shares nothing with ours. Reads
RATEGUARD_PROXY_URL, RATEGUARD_KEY, RATEGUARD_ADMIN_URL, RATEGUARD_ADMIN_TOKEN and
RATEGUARD_WORKSPACE; prints one line a check and exits 1 at the first that fails.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from decimal import ROUND_HALF_EVEN, Decimal

import anthropic
import openai
from genai_prices import Usage, calc_price

PROXY = os.environ["RATEGUARD_PROXY_URL"]
KEY = os.environ["RATEGUARD_KEY"]
ADMIN = os.environ["RATEGUARD_ADMIN_URL"]
TOKEN = os.environ["RATEGUARD_ADMIN_TOKEN"]
WORKSPACE = os.environ["RATEGUARD_WORKSPACE"]

# A request is to be visible this soon after its answer ended.
VISIBLE_WITHIN_SECONDS = 3.0

checks = 0


def check(what, got, want):
    global checks
    if got != want:
        sys.exit(f"{what}: got {got!r}, want {want!r}")
    checks += 1
    print(f"ok  {what}: {got}")


def admin(path):
    request = urllib.request.Request(ADMIN + path, headers={"Authorization": "Bearer " + TOKEN})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def recorded(request_id):
    """Returns the row of a request, waiting until it is visible."""
    deadline = time.monotonic() + VISIBLE_WITHIN_SECONDS
    while True:
        try:
            return admin(f"/v1/workspaces/{WORKSPACE}/requests/{request_id}")
        except urllib.error.HTTPError as error:
            if error.code != 404 or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def nano(usd):
    return int((Decimal(usd) * 10**9).to_integral_value(rounding=ROUND_HALF_EVEN))


def expected(provider, model, **usage):
    price = calc_price(Usage(**usage), model_ref=model, provider_id=provider).total_price
    return nano(price)


total = 0


def settle(name, request_id, want):
    global total
    row = recorded(request_id)
    check(f"{name}: cost in nano-USD", nano(row["cost_usd"]), want)
    check(f"{name}: estimated", row["estimated"], False)
    total += want
    return row


def openai_usage(usage):
    details = usage.prompt_tokens_details
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "cache_read_tokens": (details.cached_tokens or 0) if details else 0,
    }


def anthropic_usage(usage):
    read, write = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    return {
        "input_tokens": usage.input_tokens + read + write,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": read,
        "cache_write_tokens": write,
    }


def openai_calls():
    client = openai.OpenAI(base_url=PROXY + "/v1", api_key=KEY, max_retries=0)
    messages = [{"role": "user", "content": "Say what a ledger is, in one sentence."}]

    raw = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=messages, max_tokens=64)
    answer = raw.parse()
    check("chat: answered", bool(answer.choices[0].message.content), True)
    want = expected("openai", "gpt-4o-mini", **openai_usage(answer.usage))
    check("chat: cost header", nano(raw.headers["x-rateguard-cost-usd"]), want)
    settle("chat", raw.headers["x-request-id"], want)

    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=messages, max_tokens=64, stream=True, stream_options={"include_usage": True})
    chunks = list(raw.parse())
    check("stream: usage is the last chunk", (chunks[-1].choices, chunks[-1].usage is not None), ([], True))
    settle("stream", raw.headers["x-request-id"], expected("openai", "gpt-4o", **openai_usage(chunks[-1].usage)))

    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=messages, max_tokens=64, stream=True)
    chunks = list(raw.parse())
    check("stream without include_usage: no usage chunk", [c for c in chunks if not c.choices or c.usage], [])
    row = recorded(raw.headers["x-request-id"])
    check("stream without include_usage: exact all the same", (row["estimated"], row["output_tokens"] > 0), (False, True))
    settle("stream without include_usage", raw.headers["x-request-id"],
           expected("openai", "gpt-4o", input_tokens=row["input_tokens"], output_tokens=row["output_tokens"], cache_read_tokens=row["cached_tokens"]))

    raw = client.responses.with_raw_response.create(model="gpt-4.1-mini", input="Say hello.", max_output_tokens=64)
    usage = raw.parse().usage
    settle("responses", raw.headers["x-request-id"],
           expected("openai", "gpt-4.1-mini", input_tokens=usage.input_tokens, output_tokens=usage.output_tokens,
                    cache_read_tokens=usage.input_tokens_details.cached_tokens or 0))

    raw = client.embeddings.with_raw_response.create(model="text-embedding-3-small", input="ledger")
    settle("embeddings", raw.headers["x-request-id"],
           expected("openai", "text-embedding-3-small", input_tokens=raw.parse().usage.prompt_tokens))


def anthropic_calls():
    client = anthropic.Anthropic(base_url=PROXY, api_key=KEY, max_retries=0)
    call = {
        "model": "claude-haiku-4-5",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Say what a ledger is, in one sentence."}],
    }
    raw = client.messages.with_raw_response.create(**call)
    settle("message", raw.headers["x-request-id"],
           expected("anthropic", "claude-haiku-4-5", **anthropic_usage(raw.parse().usage)))

    raw = client.messages.with_raw_response.create(**call, stream=True)
    events = list(raw.parse())
    start = next(e.message.usage for e in events if e.type == "message_start")
    end = next(e.usage for e in reversed(events) if e.type == "message_delta")
    usage = anthropic_usage(start) | {"output_tokens": end.output_tokens}
    settle("message stream", raw.headers["x-request-id"], expected("anthropic", "claude-haiku-4-5", **usage))


def errors():
    stranger = openai.OpenAI(base_url=PROXY + "/v1", api_key="rg_unknown", max_retries=0)
    try:
        stranger.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])
        sys.exit("an unknown key was served")
    except openai.AuthenticationError as error:
        check("unknown key: openai's error", error.code, "invalid_api_key")
    stranger = anthropic.Anthropic(base_url=PROXY, api_key="rg_unknown", max_retries=0)
    try:
        stranger.messages.create(model="claude-haiku-4-5", max_tokens=8, messages=[{"role": "user", "content": "hi"}])
        sys.exit("an unknown key was served")
    except anthropic.AuthenticationError as error:
        check("unknown key: anthropic's error", error.body["error"]["type"], "authentication_error")


before = nano(sum(Decimal(r["cost_usd"] or 0) for r in admin(f"/v1/workspaces/{WORKSPACE}/usage")["data"]))
openai_calls()
anthropic_calls()
errors()
after = nano(sum(Decimal(r["cost_usd"] or 0) for r in admin(f"/v1/workspaces/{WORKSPACE}/usage")["data"]))
check("usage grew by the sum of all calls", after - before, total)
print(f"{checks} passed, 0 failed")
