#!/usr/bin/env python3
"""Writes golden.json and sweep.json: costs from an independent calculator.

Usage, from this folder:

    python3 -m venv /tmp/golden && /tmp/golden/bin/pip install -r requirements.txt
    /tmp/golden/bin/python golden.py

The calculator is the Python package genai-prices, which carries its own copy of the price data and
shares no code with ours. The same package version gives the same bytes. golden.json holds vectors of every feature;
sweep.json prices one usage at every model of the catalogue.
"""

import json
import pathlib
from datetime import date, datetime, time, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import genai_prices
from genai_prices import Usage, calc_price
from genai_prices.data import providers
from genai_prices.types import ModelPrice, StartDateConstraint, TieredPrices, TimeOfDateConstraint

assert genai_prices.__version__ == '0.1.8', genai_prices.__version__

HERE = pathlib.Path(__file__).parent
AT = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)

# Our name of a unit to the calculator's names of it.
KEYS = {
    'input_tokens': ['input_tokens'],
    'cache_read_tokens': ['cache_read_tokens'],
    'cache_write_tokens': ['cache_write_tokens'],
    'cache_write_1h_tokens': ['cache_write_1h_tokens'],
    'input_audio_tokens': ['input_audio_tokens'],
    'cache_audio_read_tokens': ['cache_audio_read_tokens'],
    'input_image_tokens': ['input_image_tokens'],
    'cache_image_read_tokens': ['cache_image_read_tokens'],
    'input_video_tokens': ['input_video_tokens'],
    'output_tokens': ['output_tokens'],
    'reasoning_tokens': ['output_reasoning_tokens'],
    'output_audio_tokens': ['output_audio_tokens'],
    'output_image_tokens': ['output_image_tokens'],
    'output_video_tokens': ['output_video_tokens'],
    'citation_tokens': ['output_citation_tokens'],
    'audio_milliseconds': ['audio_seconds', 'input_audio_seconds'],
    'web_searches': ['web_searches'],
    'storage_searches': ['storage_searches'],
    'document_pages': ['input_document_pages'],
    'annotated_document_pages': ['input_annotated_document_pages'],
    'text_messages': ['input_text_messages'],
}

# One usage for each price key, large and odd enough that roundings and subsets show.
FEATURES = {
    'input_mtok': {'input_tokens': 12_345, 'output_tokens': 678},
    'output_mtok': {'input_tokens': 7, 'output_tokens': 98_765},
    'cache_read_mtok': {'input_tokens': 50_001, 'cache_read_tokens': 33_333, 'output_tokens': 11},
    'cache_write_mtok': {
        'input_tokens': 41_003, 'cache_read_tokens': 1_001, 'cache_write_tokens': 20_007, 'output_tokens': 301,
    },
    'cache_write_1h_mtok': {
        'input_tokens': 90_001, 'cache_read_tokens': 2_003, 'cache_write_tokens': 70_003, 'cache_write_1h_tokens': 30_001,
        'output_tokens': 77,
    },
    'input_audio_mtok': {'input_tokens': 9_001, 'input_audio_tokens': 7_003, 'output_tokens': 101},
    'cache_audio_read_mtok': {
        'input_tokens': 9_001, 'input_audio_tokens': 7_003, 'cache_read_tokens': 4_001, 'cache_audio_read_tokens': 3_001,
        'output_tokens': 101,
    },
    'input_image_mtok': {'input_tokens': 8_005, 'input_image_tokens': 6_007, 'output_tokens': 103},
    'cache_image_read_mtok': {
        'input_tokens': 8_005, 'input_image_tokens': 6_007, 'cache_read_tokens': 3_009, 'cache_image_read_tokens': 2_001,
        'output_tokens': 103,
    },
    'input_video_mtok': {'input_tokens': 10_007, 'input_video_tokens': 9_001, 'output_tokens': 5},
    'output_reasoning_mtok': {'input_tokens': 1_009, 'output_tokens': 5_003, 'reasoning_tokens': 4_001},
    'output_audio_mtok': {'input_tokens': 1_009, 'output_tokens': 5_003, 'output_audio_tokens': 4_999},
    'output_image_mtok': {'input_tokens': 1_009, 'output_tokens': 5_003, 'output_image_tokens': 1_290},
    'output_video_mtok': {'input_tokens': 1_009, 'output_tokens': 5_003, 'output_video_tokens': 5_003},
    'output_citation_mtok': {
        'input_tokens': 1_009, 'output_tokens': 5_003, 'reasoning_tokens': 1_001, 'citation_tokens': 2_003, 'web_searches': 3,
    },
    'audio_hours': {'audio_milliseconds': 61_237, 'text_messages': 2},
    'input_audio_hours': {'audio_milliseconds': 7_000},
    'requests_kcount': {'input_tokens': 33, 'output_tokens': 44},
    'web_searches_kcount': {'input_tokens': 3_003, 'output_tokens': 401, 'web_searches': 7},
    'storage_searches_kcount': {'input_tokens': 3_003, 'output_tokens': 401, 'storage_searches': 5, 'web_searches': 1},
    'input_document_kpages': {'document_pages': 17},
    'input_annotated_document_kpages': {'document_pages': 17, 'annotated_document_pages': 4},
    'input_text_messages_kcount': {'audio_milliseconds': 3_600_001, 'text_messages': 9},
}
PLAIN = {'input_tokens': 1_234, 'cache_read_tokens': 100, 'output_tokens': 567, 'reasoning_tokens': 300}
SWEEP = {
    'input_tokens': 150_001, 'cache_read_tokens': 40_003, 'cache_write_tokens': 30_001, 'cache_write_1h_tokens': 10_007,
    'input_audio_tokens': 1_009, 'cache_audio_read_tokens': 503, 'input_image_tokens': 2_003, 'cache_image_read_tokens': 701,
    'input_video_tokens': 307, 'output_tokens': 9_001, 'reasoning_tokens': 4_003, 'output_audio_tokens': 601,
    'output_image_tokens': 1_103, 'output_video_tokens': 211, 'citation_tokens': 1_301, 'audio_milliseconds': 754_321,
    'web_searches': 3, 'storage_searches': 2, 'document_pages': 11, 'annotated_document_pages': 5, 'text_messages': 13,
}


def to_usage(usage):
    values = {name: 0 for names in KEYS.values() for name in names}
    for key, count in usage.items():
        for name in KEYS[key]:
            values[name] = Decimal(count) / 1000 if key == 'audio_milliseconds' else count
    return Usage(**values)


def price(provider, model, at, usage):
    """The calculator's answer, in nano-USD, or the kind of its error."""
    try:
        with localcontext() as ctx:
            ctx.prec = 60  # the result is exact or far from a tie
            result = calc_price(to_usage(usage), model, provider_id=provider or None, genai_request_timestamp=at)
            nano = (result.total_price * 10**9).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)
    except LookupError:
        return {'error': 'unknown_model'}
    except ValueError as e:
        assert str(e).startswith('Invalid usage data'), e
        return {'error': 'invalid_usage'}
    return {'nano_usd': int(nano), 'matched': result.model.id}


vectors = []


def add(name, provider, model, usage, at=AT):
    vectors.append(
        {'name': name, 'provider': provider, 'model': model, 'at': at.isoformat(), 'usage': usage}
        | price(provider, model, at, usage)
    )


def price_sets(model):
    return [model.prices] if isinstance(model.prices, ModelPrice) else [c.prices for c in model.prices]


def price_keys(model):
    return {k for p in price_sets(model) for k, v in p.__dict__.items() if v is not None}


def inexact(model):
    """Whether a price is no whole number of pico-USD: such models are refused by the catalogue."""
    for prices in price_sets(model):
        for key, value in prices.__dict__.items():
            scale = 10**6 if key.endswith('mtok') else 10**12 if key.endswith('hours') else 10**9
            amounts = [value.base, *(t.price for t in value.tiers)] if isinstance(value, TieredPrices) else [value]
            if any(a is not None and a * scale % 1 for a in amounts):
                return True
    return False


def models():
    for provider in providers:
        for model in provider.models:
            if not inexact(model):
                yield provider, model


def features():
    """Every price key at up to eight models, one or two a provider; every provider at its first priced models."""
    for key, usage in FEATURES.items():
        taken, per_provider = 0, {}
        for provider, model in models():
            if key in price_keys(model) and per_provider.get(provider.id, 0) < 2 and taken < 8:
                per_provider[provider.id] = per_provider.get(provider.id, 0) + 1
                taken += 1
                add(f'{key} of {provider.id} {model.id}', provider.id, model.id, usage)
    for provider in providers:
        for model in [m for m in provider.models if price_keys(m) and not inexact(m)][:2]:
            add(f'plain {provider.id} {model.id}', provider.id, model.id, PLAIN)


def tiers():
    for provider, model in models():
        starts = {
            t.start for p in price_sets(model) for v in p.__dict__.values() if isinstance(v, TieredPrices) for t in v.tiers
        }
        at = AT
        if not isinstance(model.prices, ModelPrice) and model.prices[0].constraint is None:
            at = datetime(2026, 1, 1, tzinfo=timezone.utc)
        if provider.id in ('openrouter', 'github-copilot', 'azure'):
            starts = ()
        for start in sorted(starts):
            for n in (start - 1, start, start + 1):
                usage = {'input_tokens': n, 'cache_read_tokens': n // 3, 'output_tokens': 1_001}
                if 'cache_write_mtok' in price_keys(model):
                    usage['cache_write_tokens'] = n // 5
                if 'cache_write_1h_mtok' in price_keys(model):
                    usage['cache_write_1h_tokens'] = n // 7
                add(f'tier {start} at {n} of {provider.id} {model.id}', provider.id, model.id, usage, at)


def conditions():
    east = timezone(timedelta(hours=9))
    for provider, model in models():
        if isinstance(model.prices, ModelPrice):
            continue
        for conditional in model.prices:
            c = conditional.constraint
            if isinstance(c, StartDateConstraint):
                start = datetime.combine(c.start_date, time(0), timezone.utc)
                instants = [start - timedelta(microseconds=1), start, start.astimezone(east)]
            elif isinstance(c, TimeOfDateConstraint):
                instants = []
                for edge in (c.start_time, c.end_time):
                    instant = datetime.combine(date(2026, 11, 23), edge.replace(tzinfo=None), timezone.utc)
                    instants += [instant - timedelta(microseconds=1), instant, instant.astimezone(east)]
            else:
                continue
            usage = FEATURES['input_audio_hours'] if 'audio_hours' in price_keys(model) else PLAIN
            if 'input_document_kpages' in price_keys(model):
                usage = FEATURES['input_annotated_document_kpages']
            for at in instants:
                add(f'{provider.id} {model.id} at {at.isoformat()}', provider.id, model.id, usage, at)


ALIASES = [
    ('openai', 'gpt-4o-2024-08-06'), ('openai', 'GPT-4o'), ('openai', 'gpt-4o-mini-2024-07-18'), ('openai', 'gpt-4.1'),
    ('openai', 'gpt-4.1-2025-04-14'), ('openai', 'gpt-4.1-20250414'), ('openai', 'gpt-5'), ('openai', 'gpt-5-mini'),
    ('openai', 'gpt-5-mini-20250807'), ('openai', 'gpt-5-mini-20251340'), ('openai', 'gpt-5.4-2026-03-05'),
    ('openai', 'gpt-5.4-20260305'), ('openai', 'o3-mini'), ('openai', 'o1-2024-12-17'), ('openai', 'text-embedding-3-small'),
    ('openai', 'text-embedding-3-large'), ('openai', 'gpt-3.5-turbo-0125'), ('openai', 'gpt-3.5-turbo'),
    ('openai', 'ft:gpt-4o-mini-2024-07-18:acme::abc'), ('openai', 'omni-moderation-latest'), ('openai', 'davinci-002'),
    ('anthropic', 'claude-3-5-sonnet-20241022'), ('anthropic', 'claude-3-5-haiku-latest'),
    ('anthropic', 'claude-sonnet-4-20250514'), ('anthropic', 'claude-opus-4-1-20250805'), ('anthropic', 'claude-haiku-4-5'),
    ('anthropic', 'claude-sonnet-4-5-20250929'), ('anthropic', 'claude-opus-5-20260801'), ('anthropic', 'claude-opus-5'),
    ('google', 'gemini-2.5-pro'), ('google', 'gemini-2.5-pro-preview-tts'), ('google', 'gemini-2.5-pro-TTS-x'),
    ('google', 'gemini-2.5-pro-ttsx'), ('google', 'gemini-2.5-flash'), ('google', 'gemini-2.5-flash-lite-preview-06-17'),
    ('google', 'gemini-2.0-flash'), ('google', 'gemini-3.5-flash-001'), ('google', 'claude-3-5-sonnet-v2@20241022'),
    ('gemini', 'gemini-2.5-flash'), ('google-vertex', 'gemini-2.5-flash'), (' Google ', 'gemini-2.5-flash'),
    ('azure', 'gpt-4o'), ('azure', 'claude-sonnet-4-5'), ('azure', 'deepseek-chat'), ('azure', 'gpt-5-mini-20250807'),
    ('bedrock', 'anthropic.claude-3-5-sonnet-20241022-v2:0'), ('aws', 'us.anthropic.claude-sonnet-4-20250514-v1:0'),
    ('aws', 'amazon.nova-pro-v1:0'), ('xai', 'grok-4'), ('x-ai', 'grok-4.3-20260501'), ('x-ai', 'grok-latest'),
    ('mistral', 'mistral-large-latest'), ('mistralai', 'mistral-small-latest'), ('deepseek', 'deepseek-reasoner'),
    ('groq', 'whisper-large-v3'), ('groq', 'llama-3.3-70b-versatile'), ('perplexity', 'sonar-pro'),
    ('openrouter', 'openai/gpt-4o'), ('openrouter', 'anthropic/claude-sonnet-4.5'), ('openrouter', 'x-ai/grok-4.3-20260501'),
    ('together_ai', 'meta-llama/Llama-3.3-70B-Instruct-Turbo'), ('cursor', 'composer-2.5[fast=true]'),
    ('litellm', 'openai/gpt-4o'), ('litellm', 'anthropic/claude-3-5-sonnet-latest'), ('litellm', 'gpt-4o'),
    ('LiteLLM', 'nobody/gpt-4o'), ('litellm', '/gpt-4o'), ('', 'gpt-4o'), ('', 'claude-sonnet-4-5'), ('', 'gemini-2.5-pro'),
    ('', 'mistral-large-latest'), ('', 'labs-devstral-small-2512'), ('', 'x/mistral-large-latest'), ('', 'o3-mini'), ('', 'grok-4'),
    ('', 'kimi-k2-0905-preview'), ('', 'voyage-3'), ('', 'whisper-1'), ('', 'some-model'), ('nobody', 'gpt-4o'), ('openai', 'claude-3-5-sonnet-latest'), ('openai', 'gpt-99-imaginary'),
    ('anthropic', 'gpt-4o'), ('openai', ''), ('google', 'palm-unknown'), ('cohere', 'command-r-plus'), ('voyageai', 'voyage-3'),
]


def names():
    for provider, model in ALIASES:
        add(f'name {provider!r} {model!r}', provider, model, PLAIN)


def invalid():
    for provider, model, usage in [
        ('openai', 'gpt-4o', {'input_tokens': 10, 'cache_read_tokens': 11}),
        ('anthropic', 'claude-sonnet-4-5', {'input_tokens': 10, 'cache_read_tokens': 6, 'cache_write_tokens': 5}),
        ('anthropic', 'claude-sonnet-4-5', {'input_tokens': 100, 'cache_write_tokens': 5, 'cache_write_1h_tokens': 6}),
        ('perplexity', 'sonar-deep-research', {'output_tokens': 10, 'reasoning_tokens': 6, 'citation_tokens': 5}),
        ('openai', 'gpt-4o', {'output_tokens': 10, 'reasoning_tokens': 11}),
        ('openai', 'gpt-4o', {'cache_read_tokens': 1}),
        ('openai', 'gpt-4o', {}),
        ('perplexity', 'sonar', {}),
        ('mistral', 'mistral-ocr-latest', {'document_pages': 3, 'annotated_document_pages': 4}),
        ('openai', 'whisper-1', {'audio_milliseconds': 1}),
        ('groq', 'whisper-large-v3', {'audio_milliseconds': 1}),
        ('groq', 'whisper-large-v3', {'audio_milliseconds': 9_999}),
        ('groq', 'whisper-large-v3', {'audio_milliseconds': 10_001}),
        ('groq', 'whisper-large-v3-turbo', {'audio_milliseconds': 0}),
        ('openai', 'gpt-4o', {'input_tokens': 10**12, 'output_tokens': 10**11}),
        # Ties: half a nano-USD, rounded to the even neighbour.
        ('openai', 'gpt-4o', {'input_tokens': 1}),
        ('openai', 'text-embedding-3-small', {'input_tokens': 1}),
    ]:
        add(f'edge {provider} {model} {json.dumps(usage)}', provider, model, usage)
    # Real ties of half a nano-USD, both ways.
    taken = 0
    for provider, model in models():
        prices = price_sets(model)[0]
        value = prices.__dict__.get('input_mtok')
        if isinstance(value, Decimal) and len(price_sets(model)) == 1 and (value * 10**6) % 1000 == 500 and taken < 6:
            taken += 1
            for n in (1, 3, 5, 1_001):
                add(f'tie {provider.id} {model.id} {n}', provider.id, model.id, {'input_tokens': n})


def lines(items):
    return '[\n' + ',\n'.join(json.dumps(i, ensure_ascii=False) for i in items) + '\n]\n'


def main():
    for part in (features, tiers, conditions, names, invalid):
        part()
    (HERE / 'golden.json').write_text(lines(vectors))
    sweep = []
    for provider in providers:
        for model in provider.models:
            result = price(provider.id, model.id, AT, SWEEP)
            sweep.append([provider.id, model.id, result.get('matched', ''), result.get('nano_usd', -1)])
    head = {'at': AT.isoformat(), 'usage': SWEEP}
    (HERE / 'sweep.json').write_text('{"head": ' + json.dumps(head) + ', "models": ' + lines(sweep) + '}\n')
    print(len(vectors), 'vectors over', len({v['provider'] for v in vectors if 'matched' in v}), 'provider names;',
          len(sweep), 'models')


main()
