// Drives RateGuard with the official Node SDKs and checks that each call is recorded with the
// usage that the SDK saw. Prices are checked by the Python suite; here it is the other client
// library's transport, parser and error mapping that are under test.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

const { RATEGUARD_PROXY_URL: proxy, RATEGUARD_KEY: apiKey, RATEGUARD_ADMIN_URL: admin,
  RATEGUARD_ADMIN_TOKEN: token, RATEGUARD_WORKSPACE: workspace } = process.env;
const visibleWithinMs = 3000;
let passed = 0;

async function recorded(id) {
  const deadline = performance.now() + visibleWithinMs;
  for (;;) {
    const response = await fetch(`${admin}/v1/workspaces/${workspace}/requests/${id}`, { headers: { authorization: `Bearer ${token}` } });
    if (response.ok) return response.json();
    if (response.status !== 404 || performance.now() > deadline) assert.fail(`request ${id}: ${response.status} ${await response.text()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function check(name, run) {
  await run();
  passed++;
  console.log(`ok  ${name}`);
}

const openai = new OpenAI({ baseURL: `${proxy}/v1`, apiKey, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: proxy, apiKey, maxRetries: 0 });
const messages = [{ role: 'user', content: 'Say what a ledger is, in one sentence.' }];

await check('openai: chat', async () => {
  const { data, response } = await openai.chat.completions.create({ model: 'gpt-4o-mini', messages, max_tokens: 64 }).withResponse();
  const row = await recorded(response.headers.get('x-request-id'));
  assert.equal(row.input_tokens, data.usage.prompt_tokens);
  assert.equal(row.output_tokens, data.usage.completion_tokens);
  assert.equal(row.cost_usd, response.headers.get('x-rateguard-cost-usd'));
});

await check('openai: stream', async () => {
  const { data, response } = await openai.chat.completions.create({ model: 'gpt-4o-mini', messages, max_tokens: 64, stream: true }).withResponse();
  let text = '';
  for await (const chunk of data) {
    assert.equal(chunk.choices.length, 1, 'a usage chunk that was not asked for');
    text += chunk.choices[0].delta.content ?? '';
  }
  assert.ok(text.length > 0);
  const row = await recorded(response.headers.get('x-request-id'));
  assert.equal(row.stream, true);
  assert.equal(row.estimated, false);
  assert.ok(row.output_tokens > 0);
});

await check('anthropic: message', async () => {
  const { data, response } = await anthropic.messages.create({ model: 'claude-haiku-4-5', max_tokens: 64, messages }).withResponse();
  const row = await recorded(response.headers.get('x-request-id'));
  assert.equal(row.output_tokens, data.usage.output_tokens);
});

await check('anthropic: stream', async () => {
  const { data, response } = await anthropic.messages.create({ model: 'claude-haiku-4-5', max_tokens: 64, messages, stream: true }).withResponse();
  let output = 0;
  for await (const event of data) if (event.type === 'message_delta') output = event.usage.output_tokens;
  const row = await recorded(response.headers.get('x-request-id'));
  assert.equal(row.output_tokens, output);
});

await check('errors: the SDKs map an unknown key', async () => {
  const strange = { apiKey: 'rg_unknown', maxRetries: 0 };
  await assert.rejects(new OpenAI({ baseURL: `${proxy}/v1`, ...strange }).models.list(), OpenAI.AuthenticationError);
  await assert.rejects(new Anthropic({ baseURL: proxy, ...strange }).messages.create({ model: 'claude-haiku-4-5', max_tokens: 8, messages }), Anthropic.AuthenticationError);
});

console.log(`${passed} passed, 0 failed`);
