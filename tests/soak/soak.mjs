// Mixed traffic against a real ds4-server: node soak.mjs SERVER-PROGRAM MODEL SECONDS
// Mostly agents that behave, and some that do not. In between everybody pauses, and the server must be as it was: memory,
// files, threads, and every reference answer. The last line says PASS or FAIL. No packages are needed.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';

const [program, model, length = '1800'] = process.argv.slice(2);
const seconds = Number(length);
const goodWorkers = 6,
  hostileWorkers = 2;
const pauseEvery = Math.max(10, Math.min(60, seconds / 12));
const driftKiB = 16 * 1024,
  drift = 0.01; // of memory: whichever is more

// States on disk, in a space that is too small for them: files come and go all the time.
const states = mkdtempSync(`${tmpdir()}/ds4-soak-`);
process.on('exit', () => rmSync(states, { recursive: true }));

const server = spawn(
  program,
  [
    '-m',
    model,
    '--port',
    '0',
    '-c',
    '2048',
    '--parallel',
    '3',
    '--head-seconds',
    '3',
    '--body-seconds',
    '3',
    '--api-key',
    'soak-key',
    '--temp',
    '0',
    '--kv-disk-dir',
    states,
    '--kv-disk-space-mb',
    '8',
  ],
  { stdio: ['ignore', 'ignore', 'pipe'] },
);
let log = '',
  exited = null;
server.stderr.on('data', (data) => {
  log = (log + data).slice(-200000);
});
server.on('exit', (code, signal) => {
  exited = signal ?? code;
});
const sleep = (ms) => new Promise((go) => setTimeout(go, ms));
let port;
while (!(port = /event=listening.* port=(\d+)/.exec(log)?.[1]) || !log.includes('event=serving')) {
  if (exited !== null) throw new Error(`the server ended with ${exited}: ${log}`);
  await sleep(50);
}
const base = `http://127.0.0.1:${port}`;
const headers = { 'content-type': 'application/json', authorization: 'Bearer soak-key' };

async function post(path, body) {
  const response = await fetch(base + path, { method: 'POST', headers, body: JSON.stringify(body) });
  const text = await response.text();
  return { status: response.status, text, json: () => JSON.parse(text) };
}

// The good.

const questions = [
  'What is the capital of France?',
  'What is 12 + 30?',
  'What is the capital of Spain?',
  'What is 23 + 45?',
];
const tool = {
  name: 'get_weather',
  description: 'Get the current weather of a city',
  parameters: {
    type: 'object',
    properties: { city: { type: 'string', description: 'Name of the city' } },
    required: ['city'],
  },
};

const references = {
  ...Object.fromEntries(
    questions.map((content) => [
      `chat ${content}`,
      async () => {
        const {
          choices: [{ message }],
        } = (await post('/v1/chat/completions', { max_tokens: 60, messages: [{ role: 'user', content }] })).json();
        return message.reasoning_content + message.content;
      },
    ]),
  ),
  async stream() {
    const { text } = await post('/v1/chat/completions', {
      max_tokens: 60,
      stream: true,
      messages: [{ role: 'user', content: questions[1] }],
    });
    assert.match(text, /data: \[DONE\]\n\n$/);
    return [...text.matchAll(/"(?:content|reasoning_content)":"((?:[^"\\]|\\.)*)"/g)]
      .map(([, piece]) => piece)
      .join('');
  },
  async messages() {
    const { content } = (
      await post('/v1/messages', {
        max_tokens: 40,
        thinking: { type: 'disabled' },
        messages: [{ role: 'user', content: questions[2] }],
      })
    ).json();
    return content[0].text;
  },
  async responses() {
    const { output } = (
      await post('/v1/responses', { max_output_tokens: 40, reasoning: { effort: 'none' }, input: questions[0] })
    ).json();
    return output.at(-1).content[0].text;
  },
  async 'tool loop'() {
    const tools = [{ type: 'function', function: tool }];
    const messages = [{ role: 'user', content: 'What is the weather in Paris?' }];
    const first = (await post('/v1/chat/completions', { max_tokens: 200, messages, tools })).json().choices[0].message;
    messages.push(first, {
      role: 'tool',
      tool_call_id: first.tool_calls[0].id,
      content: '{"city": "Paris", "temperature": 18, "condition": "sunny"}',
    });
    const { message } = (await post('/v1/chat/completions', { max_tokens: 100, messages, tools })).json().choices[0];
    return first.tool_calls[0].function.arguments + message.content;
  },
  async tokens() {
    const { tokens } = (await post('/tokenize', { content: 'In the beginning' })).json();
    return (await post('/detokenize', { tokens })).json().content;
  },
};

/// Conversations that grow, sampled: what they say does not matter, how they are served does.
async function wander() {
  const messages = [];
  for (let turn = 0; turn < 5; ++turn) {
    messages.push({ role: 'user', content: `${questions[Math.floor(Math.random() * 4)]} ${Math.random()}` });
    const reply = await post('/v1/chat/completions', {
      messages,
      max_tokens: 30,
      temperature: 1,
      reasoning_effort: turn % 2 ? 'none' : 'high',
    });
    assert.equal(reply.status, 200, reply.text);
    messages.push(reply.json().choices[0].message);
    if (Math.random() < 0.2) messages.splice(-2, 2); // the tail is edited
  }
}

// The hostile. Whatever happens to them, the server lives.

const request = (head, body = '') =>
  `${head}\r\nHost: localhost\r\nAuthorization: Bearer soak-key\r\nContent-Type: application/json\r\n` +
  `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
const question = JSON.stringify({ messages: [{ role: 'user', content: questions[0] }], max_tokens: 100, stream: true });

/** Sends the pieces with pauses; then closes, resets, or waits for the end. */
function raw(pieces, { pause = 0, ending = 'wait', read = true } = {}) {
  return new Promise((over) => {
    const socket = net.connect(Number(port), '127.0.0.1');
    const timer = setTimeout(() => socket.destroy(), 15000);
    if (read) socket.resume();
    socket.on('error', () => {});
    socket.on('close', () => {
      clearTimeout(timer);
      over();
    });
    (async () => {
      for (const piece of pieces) {
        if (socket.destroyed) return;
        socket.write(piece);
        if (pause) await sleep(pause);
      }
      if (ending === 'reset') socket.resetAndDestroy();
      if (ending === 'half') socket.end();
      if (ending === 'close') {
        await sleep(20 + Math.random() * 200);
        socket.destroy();
      }
    })();
  });
}

const hostile = [
  () => raw(['\x16\x03\x01\x02garbage\r\n\r\n']),
  () => raw([Buffer.from(Array.from({ length: 4000 }, () => Math.random() * 256))], { ending: 'close' }),
  () => raw([`GET /${'a'.repeat(20000)} HTTP/1.1\r\n\r\n`]),
  () => raw([`GET / HTTP/1.1\r\nHost: localhost\r\n${'x: y\r\n'.repeat(2000)}\r\n`]),
  () =>
    raw([
      `POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    ]),
  () => raw([request('POST /v1/chat/completions HTTP/1.1', '['.repeat(1e6))], { ending: 'close' }),
  () => raw([request('POST /v1/chat/completions HTTP/1.1', '{"messages":7}')], { ending: 'half' }),
  () => raw(['GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n'], { ending: 'half' }),
  () => raw(['GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n\r\n'], { ending: 'half' }),
  () => raw('GET /health HTTP/1.1'.split(''), { pause: 300 }),
  () => raw([request('POST /v1/chat/completions HTTP/1.1', question).slice(0, -20)], { ending: 'wait' }),
  () => raw([request('POST /v1/chat/completions HTTP/1.1', question)], { ending: 'reset' }),
  () => raw([request('POST /v1/chat/completions HTTP/1.1', question)], { ending: 'close' }),
  () => raw([request('POST /v1/chat/completions HTTP/1.1', question)], { read: false, ending: 'close' }),
  () =>
    raw([
      `POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer soak-key\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n`,
    ]),
  () =>
    raw(
      Array.from({ length: 200 }, () => 'GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n'),
      { ending: 'close' },
    ),
  async () => {
    for (const body of [
      '{}',
      'null',
      '{"messages":[{}]}',
      '{"messages":[{"role":"user","content":"x"}],"temperature":-1}',
    ]) {
      assert.equal((await fetch(`${base}/v1/chat/completions`, { method: 'POST', headers, body })).status, 400);
    }
  },
];

// The watch.

function look() {
  const status = readFileSync(`/proc/${server.pid}/status`, 'utf8');
  const field = (name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)[1]);
  return { memory: field('VmRSS'), threads: field('Threads'), files: readdirSync(`/proc/${server.pid}/fd`).length };
}

const expected = {};
const problems = [];
let counted = { good: 0, hostile: 0 },
  paused = false,
  over = false,
  inside = 0;

async function checkReferences() {
  for (const [name, ask] of Object.entries(references)) {
    const found = await ask();
    expected[name] ??= found;
    if (found !== expected[name])
      problems.push(`${name}: expected ${JSON.stringify(expected[name])}, found ${JSON.stringify(found)}`);
  }
}

async function worker(kind, one) {
  while (!over) {
    if (paused) {
      await sleep(20);
      continue;
    }
    ++inside;
    try {
      await one();
      ++counted[kind];
    } catch (error) {
      problems.push(`${kind}: ${error.stack}`);
    }
    --inside;
  }
}

await checkReferences();
const names = Object.keys(references);
for (let i = 0; i < goodWorkers; ++i) {
  worker('good', async () => {
    if (Math.random() < 0.3) return wander();
    const name = names[Math.floor(Math.random() * names.length)];
    const found = await references[name]();
    assert.equal(found, expected[name], name);
  });
}
for (let i = 0; i < hostileWorkers; ++i) {
  worker('hostile', async () => {
    await hostile[Math.floor(Math.random() * hostile.length)]();
    await sleep(200);
  });
}

const samples = [];
const end = Date.now() + seconds * 1000;
while (Date.now() < end && exited === null && problems.length === 0) {
  await sleep(Math.min(pauseEvery * 1000, Math.max(0, end - Date.now())));
  paused = true;
  while (inside > 0) await sleep(20);
  await sleep(4000); // the last connections end on their own time
  await checkReferences();
  await sleep(1000);
  const sample = { ...look(), at: Math.round(seconds - (end - Date.now()) / 1000), ...counted };
  samples.push(sample);
  console.log(
    `soak: ${sample.at} s: ${sample.good} good, ${sample.hostile} hostile, ${sample.memory} KiB, ${sample.threads} threads, ${sample.files} files`,
  );
  paused = false;
}
over = true;
while (inside > 0) await sleep(20);

// The first third warms up: caches fill, the allocator finds its size.
const settled = samples.slice(Math.floor(samples.length / 3));
if (exited !== null) problems.push(`the server ended with ${exited}`);
else if (settled.length >= 2) {
  const [first, last] = [settled[0], settled.at(-1)];
  if (last.memory > first.memory + Math.max(driftKiB, first.memory * drift))
    problems.push(`memory grew from ${first.memory} to ${last.memory} KiB`);
  if (last.threads !== first.threads) problems.push(`threads: ${first.threads}, then ${last.threads}`);
  if (last.files > first.files + 2) problems.push(`files: ${first.files}, then ${last.files}`); // of a kept connection or two
} else {
  problems.push('too short to say anything');
}
if (log.includes('event=kv_store what=')) problems.push(`trouble with the disk: ${/event=kv_store what=.*/.exec(log)[0]}`);
if (log.includes('soak-key')) problems.push('the key is in the log');
if (exited === null) {
  server.kill('SIGTERM');
  while (exited === null) await sleep(20);
  if (exited !== 0) problems.push(`the server ended with ${exited}`);
}
for (const problem of problems.slice(0, 20)) console.log(`soak: ${problem}`);
console.log(
  `soak: ${problems.length === 0 ? 'PASS' : 'FAIL'}: ${counted.good} good, ${counted.hostile} hostile in ${seconds} s`,
);
process.exit(problems.length === 0 ? 0 : 1);
