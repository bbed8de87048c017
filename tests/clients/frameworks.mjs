// What people build agents with, against ds4-server with the small model: node frameworks.mjs http://127.0.0.1:PORT
import assert from 'node:assert/strict';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { ChatOpenAI } from '@langchain/openai';
import { generateText, stepCountIs, streamText, tool as aiTool } from 'ai';
import { createAgent, tool as chainTool } from 'langchain';
import { z } from 'zod';
import { run } from './checks.mjs';

const base = process.argv[2];
const name = 'ds4-nano';
const compatible = createOpenAICompatible({ name: 'ds4', baseURL: `${base}/v1`, apiKey: 'local-key', includeUsage: true })(name);
const anthropic = createAnthropic({ baseURL: `${base}/v1`, apiKey: 'local-key' })(name);
const chain = new ChatOpenAI({ model: name, apiKey: 'local-key', temperature: 0, maxRetries: 0, configuration: { baseURL: `${base}/v1` } });

const france = 'What is the capital of France?';
const question = 'What is the weather in Paris?';
const weather = { city: 'Paris', temperature: 18, condition: 'sunny' };
const description = 'Get the current weather of a city';
const city = z.object({ city: z.string().describe('Name of the city') });

/** A whole tool loop: the call, its result, an answer that uses it. */
async function loop(model) {
  const asked = [];
  const tools = {
    get_weather: aiTool({ description, inputSchema: city, execute: async (input) => { asked.push(input.city); return weather; } }),
  };
  const { text, steps } = await generateText({ model, temperature: 0, maxRetries: 0, tools, prompt: question, stopWhen: stepCountIs(4) });
  assert.deepEqual(asked, ['Paris']);
  assert.equal(steps.length, 2);
  assert.match(text, /18/);
}

async function streamed(model) {
  const stream = streamText({ model, temperature: 0, maxRetries: 0, prompt: france });
  let text = '', pieces = 0;
  for await (const piece of stream.textStream) {
    text += piece;
    pieces += 1;
  }
  assert.match(text, /Paris/);
  assert.ok(pieces > 1);
  assert.equal(await stream.finishReason, 'stop');
  assert.ok((await stream.usage).outputTokens > 0);
}

async function answered(model) {
  const { text, usage } = await generateText({ model, temperature: 0, maxRetries: 0, prompt: france });
  assert.match(text, /Paris/);
  assert.ok(usage.inputTokens > 0 && usage.outputTokens > 0);
}

await run({
  'ai, openai-compatible: text': () => answered(compatible),
  'ai, openai-compatible: stream': () => streamed(compatible),
  'ai, openai-compatible: tool loop': () => loop(compatible),
  'ai, anthropic: text': () => answered(anthropic),
  'ai, anthropic: stream': () => streamed(anthropic),
  'ai, anthropic: tool loop': () => loop(anthropic),
  async 'langchain: text'() {
    const answer = await chain.invoke(france);
    assert.match(answer.content, /Paris/);
    assert.ok(answer.usage_metadata.output_tokens > 0);
  },
  async 'langchain: stream'() {
    let text = '', pieces = 0;
    for await (const chunk of await chain.stream(france)) {
      text += chunk.content;
      pieces += 1;
    }
    assert.match(text, /Paris/);
    assert.ok(pieces > 1);
  },
  async 'langchain: an agent with a tool'() {
    const asked = [];
    const get_weather = chainTool(async (input) => { asked.push(input.city); return JSON.stringify(weather); },
      { name: 'get_weather', description, schema: city });
    const agent = createAgent({ model: chain, tools: [get_weather] });
    const { messages } = await agent.invoke({ messages: [{ role: 'user', content: question }] });
    assert.deepEqual(asked, ['Paris']);
    assert.match(messages.at(-1).content, /18/);
  },
});
