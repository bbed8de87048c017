// Many conversations on one ds4-server, on the CPU: node server_streams.mjs SERVER-PROGRAM MODEL [SECONDS]
//   1. tokens a second of one stream, and of eight at once
//   2. how long /health takes while all cores decode
//   3. the time to the first token of a short request while a prompt of 16 K tokens is read, and how long a slice takes
// Tokens and passes are counted by the server (/metrics). Exit status 1 when a bound does not hold.
import { spawn } from 'node:child_process';

const [program, model, length = '20'] = process.argv.slice(2);
const seconds = Number(length);
const streams = 8,
  promptTokens = 16384,
  mostSlice = 0.5,
  mostHealth = 0.05;

const server = spawn(
  program,
  ['-m', model, '--port', '0', '-c', String(promptTokens + 1024), '--parallel', String(streams + 1), '--temp', '0', '--nothink'],
  { stdio: ['ignore', 'ignore', 'pipe'] },
);
let log = '',
  exited = false;
server.stderr.on('data', (data) => (log += data));
server.on('exit', () => (exited = true));
const sleep = (ms) => new Promise((go) => setTimeout(go, ms));
const now = () => performance.now() / 1000;
let port;
while (!(port = /event=listening.* port=(\d+)/.exec(log)?.[1]) || !log.includes('event=serving')) {
  if (exited) throw new Error(`the server has ended: ${log}`);
  await sleep(50);
}
const base = `http://127.0.0.1:${port}`;

/** The answer's text; rejects when `cancel` fires. */
async function complete(prompt, tokens, cancel) {
  const response = await fetch(`${base}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt, max_tokens: tokens, stream: tokens > 1 }),
    signal: cancel?.signal,
  });
  const text = await response.text();
  if (response.status !== 200) throw new Error(text);
  return text;
}

async function counters() {
  const text = await (await fetch(`${base}/metrics`)).text();
  const value = (name) => Number(new RegExp(`^ds4_${name} (\\S+)`, 'm').exec(text)[1]);
  return { at: now(), tokens: value('answer_tokens_total'), passes: value('passes_total'), prompt: value('prompt_tokens_total') };
}

/** The next counters in which `name` has changed. */
async function change(name) {
  const before = await counters();
  for (;;) {
    await sleep(2);
    const after = await counters();
    if (after[name] !== before[name]) return after;
  }
}

/** Answers that are written until `during` has ended. */
async function withStreams(count, during) {
  const cancel = new AbortController();
  const running = Array.from({ length: count }, async (_, i) => {
    for (let n = 0; !cancel.signal.aborted; ++n) await complete(`${n} stream ${i}: `, 1000, cancel).catch(() => {});
  });
  const before = (await counters()).tokens;
  while ((await counters()).tokens < before + 3 * count) await sleep(20); // every prompt is read
  const result = await during();
  cancel.abort();
  await Promise.all(running);
  await sleep(200);
  return result;
}

async function rate(count) {
  return withStreams(count, async () => {
    const first = await change('tokens');
    await sleep(seconds * 1000);
    const last = await change('tokens');
    return (last.tokens - first.tokens) / (last.at - first.at);
  });
}

const quantile = (values, share) => values.toSorted((a, b) => a - b)[Math.floor(share * (values.length - 1))];
const ms = (time) => `${(time * 1e3).toFixed(1)} ms`;
const problems = [];
function hold(what, bound, within) {
  console.log(what + (within ? '' : `   expected ${bound}`));
  if (!within) problems.push(what);
}

await complete('warm up', 4);
const one = await rate(1);
const many = await rate(streams);
hold(
  `streams: ${one.toFixed(2)} tok/s alone, ${many.toFixed(2)} tok/s for ${streams} at once, ${(many / one).toFixed(2)} times`,
  'twice',
  many >= 2 * one,
);

const health = await withStreams(streams, async () => {
  const times = [];
  for (const end = now() + seconds; now() < end; await sleep(5)) {
    const begin = now();
    await (await fetch(`${base}/health`)).text();
    times.push(now() - begin);
  }
  return times;
});
const p99 = quantile(health, 0.99);
hold(
  `health while ${streams} decode: median ${ms(quantile(health, 0.5))}, p99 ${ms(p99)}, ${health.length} times`,
  `p99 of at most ${ms(mostHealth)}`,
  p99 <= mostHealth,
);

const cancel = new AbortController();
const long = complete('x'.repeat(promptTokens), 1, cancel).catch(() => {});
await change('prompt');
await change('prompt'); // the rate is measured from the first slices
const slices = [],
  firsts = [];
for (let round = 0, end = now() + 2 * seconds; now() < end || round < 4; ++round) {
  let last = await change('passes');
  const short = (async () => {
    const begin = now();
    await complete(`short ${round}: `, 1);
    return now() - begin;
  })();
  let done = false;
  short.then(() => (done = true));
  let longest = 0;
  while (!done) {
    const next = await change('passes');
    longest = Math.max(longest, (next.at - last.at) / (next.passes - last.passes));
    last = next;
  }
  slices.push(longest);
  firsts.push(await short);
  await sleep(500);
}
const read = await counters();
cancel.abort();
await long;
const slice = Math.max(...slices),
  first = Math.max(...firsts);
hold(`slices: longest ${ms(slice)} in ${slices.length} rounds`, `at most ${ms(mostSlice)}`, slice <= mostSlice);
hold(
  `first token beside a prompt of ${promptTokens} (${read.prompt} read so far): median ${ms(quantile(firsts, 0.5))}, longest ${ms(first)}`,
  `at most two slices, ${ms(2 * mostSlice)}`,
  first <= 2 * mostSlice,
);
server.kill('SIGTERM');
while (!exited) await sleep(20);
console.log(`server_streams: ${problems.length === 0 ? 'PASS' : 'FAIL'}`);
process.exit(problems.length === 0 ? 0 : 1);
