// What the vendors' clients make of our errors: node errors.mjs http://127.0.0.1:PORT, a server with script.json as its
// script, --api-key local-key, --parallel 1 and --max-queue 1. The last check leaves it down.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import Anthropic from '@anthropic-ai/sdk';
import { run } from './checks.mjs';

const base = process.argv[2];
const openaiWith = (options) => new OpenAI({ baseURL: `${base}/v1`, apiKey: 'local-key', maxRetries: 0, ...options });
const anthropicWith = (options) => new Anthropic({ baseURL: base, apiKey: 'local-key', maxRetries: 0, ...options });
const openai = openaiWith(), anthropic = anthropicWith();
const model = 'ds4-nano';
const messages = (content) => [{ role: 'user', content }];
const chat = (client, content, more = {}) => client.chat.completions.create({ model, messages: messages(content), ...more });
const message = (client, content, more = {}) => client.messages.create({ model, max_tokens: 50, messages: messages(content), ...more });

/** Until the server has so many requests at work and waiting. */
async function until(running, waiting) {
  for (let tries = 0; tries < 1000; ++tries) {
    const text = await (await fetch(`${base}/metrics`, { headers: { authorization: 'Bearer local-key' } })).text();
    const is = (name, value) => new RegExp(`^ds4_requests_${name} ${value}$`, 'm').test(text);
    if (is('running', running) && is('waiting', waiting)) return;
  }
  throw new Error(`never ${running} at work and ${waiting} waiting`);
}

/** Both places are taken for a while: one answer at work, one waiting. */
async function occupy() {
  const first = chat(openai, 'slow');
  await until(1, 0);
  const second = chat(openai, 'slow');
  await until(1, 1);
  return [first, second];
}

async function failsInside(stream, kind) {
  let heard = '';
  await assert.rejects(async () => {
    for await (const event of stream) heard += JSON.stringify(event);
  }, (error) => error instanceof kind && /script/.test(error.message));
  assert.match(heard, /one/);
}

await run({
  async 'a wrong key'() {
    await assert.rejects(chat(openaiWith({ apiKey: 'wrong' }), 'hi'), OpenAI.AuthenticationError);
    await assert.rejects(message(anthropicWith({ apiKey: 'wrong' }), 'hi'), Anthropic.AuthenticationError);
  },
  async 'a full queue'() {
    const busy = await occupy();
    const known = (error) => Number(error.headers.get('retry-after')) > 0;
    await assert.rejects(chat(openai, 'hi'), (error) => error instanceof OpenAI.RateLimitError && known(error));
    await assert.rejects(message(anthropic, 'hi'), (error) => error instanceof Anthropic.RateLimitError && known(error));
    await Promise.all(busy);
  },
  async 'a full queue, with patience'() {
    const busy = await occupy();
    const [one, other] = await Promise.all([chat(openaiWith({ maxRetries: 5 }), 'hi'), message(anthropicWith({ maxRetries: 5 }), 'hi')]);
    assert.equal(one.choices[0].message.content, 'hello');
    assert.equal(other.content.at(-1).text, 'hello');
    await Promise.all(busy);
  },
  async 'an answer that fails'() {
    await assert.rejects(chat(openai, 'fails'), OpenAI.InternalServerError);
    await assert.rejects(message(anthropic, 'fails'), Anthropic.InternalServerError);
  },
  async 'a failure inside the stream'() {
    await failsInside(await chat(openai, 'fails', { stream: true }), OpenAI.APIError);
    await failsInside(await message(anthropic, 'fails', { stream: true }), Anthropic.APIError);
  },
  async 'a device that is down'() {
    await assert.rejects(chat(openai, 'breaks'), OpenAI.InternalServerError);
    await assert.rejects(chat(openai, 'hi'), (error) => error instanceof OpenAI.InternalServerError && error.status === 503);
    await assert.rejects(message(anthropic, 'hi'), Anthropic.OverloadedError);
  },
});
