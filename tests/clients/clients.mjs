// The vendors' own clients against ds4-server with the small model: node clients.mjs http://127.0.0.1:PORT
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import Anthropic from '@anthropic-ai/sdk';
import { run } from './checks.mjs';

const base = process.argv[2];
const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: 'local-key', maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: base, apiKey: 'local-key', maxRetries: 0 });
const model = 'ds4-nano';
const schema = {
  type: 'object',
  properties: { city: { type: 'string', description: 'Name of the city' } },
  required: ['city'],
};
const tool = { name: 'get_weather', description: 'Get the current weather of a city' };
const question = 'What is the weather in Paris?';
const result = '{"city": "Paris", "temperature": 18, "condition": "sunny"}';
const france = 'What is the capital of France?';

const checks = {
  async 'openai models'() {
    const models = [];
    for await (const one of openai.models.list()) models.push(one.id);
    assert.deepEqual(models, [model]);
    assert.equal((await openai.models.retrieve(model)).id, model);
  },
  async 'openai chat'() {
    const answer = await openai.chat.completions.create({ model, temperature: 0, messages: [{ role: 'user', content: france }] });
    assert.match(answer.choices[0].message.content, /Paris/);
    assert.ok(answer.usage.total_tokens > 0);
  },
  async 'openai chat stream'() {
    const stream = await openai.chat.completions.create({
      model, temperature: 0, stream: true, stream_options: { include_usage: true }, messages: [{ role: 'user', content: france }],
    });
    let text = '', usage;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? '';
      usage = chunk.usage ?? usage;
    }
    assert.match(text, /Paris/);
    assert.ok(usage.completion_tokens > 0);
  },
  async 'openai chat tool loop with the stream helper'() {
    const tools = [{ type: 'function', function: { ...tool, parameters: schema } }];
    const messages = [{ role: 'user', content: question }];
    const stream = openai.chat.completions.stream({ model, temperature: 0, tools, messages });
    const { message, finish_reason } = (await stream.finalChatCompletion()).choices[0];
    assert.equal(finish_reason, 'tool_calls');
    const call = message.tool_calls[0];
    assert.equal(JSON.parse(call.function.arguments).city, 'Paris');
    messages.push(message, { role: 'tool', tool_call_id: call.id, content: result });
    const answer = await openai.chat.completions.create({ model, temperature: 0, tools, messages });
    assert.match(answer.choices[0].message.content, /18/);
    assert.ok(answer.usage.prompt_tokens_details.cached_tokens > answer.usage.prompt_tokens / 2);
  },
  async 'openai responses'() {
    const answer = await openai.responses.create({ model, temperature: 0, input: france });
    assert.match(answer.output_text, /Paris/);
  },
  async 'openai responses stream with a tool'() {
    const tools = [{ type: 'function', ...tool, parameters: schema, strict: false }];
    const input = [{ role: 'user', content: question }];
    const stream = openai.responses.stream({ model, temperature: 0, tools, input, reasoning: { summary: 'auto' } });
    let deltas = '';
    stream.on('response.function_call_arguments.delta', (event) => { deltas += event.delta; });
    const first = await stream.finalResponse();
    const call = first.output.find((item) => item.type === 'function_call');
    assert.equal(JSON.parse(call.arguments).city, 'Paris');
    assert.equal(deltas, call.arguments);
    const answer = await openai.responses.create({
      model, temperature: 0, tools, input: [...input, ...first.output, { type: 'function_call_output', call_id: call.call_id, output: result }],
    });
    assert.match(answer.output_text, /18/);
  },
  async 'openai completions'() {
    const answer = await openai.completions.create({ model, prompt: 'In the beginning', max_tokens: 4, temperature: 0 });
    assert.equal(answer.usage.completion_tokens, 4);
  },
  async 'openai errors'() {
    await assert.rejects(openai.chat.completions.create({ model, messages: [] }), OpenAI.BadRequestError);
    await assert.rejects(openai.models.retrieve('nonsense'), OpenAI.NotFoundError);
  },
  async 'anthropic messages'() {
    const answer = await anthropic.messages.create({ model, max_tokens: 100, temperature: 0, messages: [{ role: 'user', content: france }] });
    assert.match(answer.content.at(-1).text, /Paris/);
    assert.equal(answer.stop_reason, 'end_turn');
  },
  async 'anthropic stream with a tool'() {
    const tools = [{ ...tool, input_schema: schema }];
    const messages = [{ role: 'user', content: question }];
    const first = await anthropic.messages.stream({ model, max_tokens: 200, temperature: 0, tools, messages }).finalMessage();
    assert.equal(first.stop_reason, 'tool_use');
    const call = first.content.at(-1);
    assert.deepEqual(call.input, { city: 'Paris' });
    messages.push({ role: 'assistant', content: first.content });
    messages.push({ role: 'user', content: [{ type: 'tool_result', tool_use_id: call.id, content: result }] });
    const answer = await anthropic.messages.create({ model, max_tokens: 200, temperature: 0, tools, messages });
    assert.match(answer.content.at(-1).text, /18/);
    assert.ok(answer.usage.cache_read_input_tokens > answer.usage.input_tokens);
  },
  async 'anthropic count and models'() {
    const count = await anthropic.messages.countTokens({ model, messages: [{ role: 'user', content: france }] });
    assert.ok(count.input_tokens > 3);
    const models = [];
    for await (const one of anthropic.models.list()) models.push(one.id);
    assert.deepEqual(models, [model]);
  },
  async 'anthropic errors'() {
    await assert.rejects(anthropic.messages.create({ model, max_tokens: 0, messages: [] }), Anthropic.BadRequestError);
  },
};

await run(checks);
