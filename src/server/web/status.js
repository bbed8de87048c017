// The server's numbers: /metrics every few seconds, kept for a few minutes, drawn as small graphs.
import { byId, make, number, svg } from './dom.js';
import { headersFor } from './chat_stream.js';

const kept = 150; // samples
const fewest = 40; // at least so many, so that the first ones are not a sliver
const width = 240,
  height = 56;

const graphs = [
  {
    name: 'Answers',
    unit: 'tokens/s',
    lines: [{ label: 'tokens/s', value: (now, before) => rate(now, before, 'ds4_answer_tokens_total') }],
  },
  {
    name: 'Prompts',
    unit: 'tokens/s',
    lines: [{ label: 'tokens/s', value: (now, before) => rate(now, before, 'ds4_prompt_tokens_total') }],
  },
  {
    name: 'Requests',
    unit: '',
    least: 2,
    lines: [
      { label: 'running', value: (now) => now.ds4_requests_running ?? 0 },
      { label: 'waiting', value: (now) => now.ds4_requests_waiting ?? 0 },
    ],
  },
  {
    name: 'KV states kept',
    unit: '',
    most: (now) => now.ds4_resume_points_limit,
    lines: [{ label: 'kept', value: (now) => now.ds4_resume_points ?? 0 }],
  },
  {
    name: 'Prompt tokens from cache',
    unit: '%',
    most: () => 100,
    lines: [{ label: 'of the last minute', value: cachedShare }],
  },
];

function rate(now, before, name) {
  if (!before || now[name] < before[name]) return 0;
  return (now[name] - before[name]) / Math.max(0.2, (now.time - before.time) / 1000);
}

/** Of the prompts of the last minute, so that one answer is not a spike. */
function cachedShare(now, before, samples) {
  const start = samples.findLast((one) => now.time - one.time > 60000) ?? samples[0] ?? now;
  const cached = now.ds4_cached_tokens_total - start.ds4_cached_tokens_total;
  const computed = now.ds4_prompt_tokens_total - start.ds4_prompt_tokens_total;
  return cached + computed > 0 ? (100 * cached) / (cached + computed) : null;
}

/** Metrics without labels by name; those with labels added up. */
export function readMetrics(text) {
  const out = { time: Date.now() };
  for (const line of text.split('\n')) {
    const found = /^([a-z0-9_]+)(?:\{[^}]*\})? (\S+)$/.exec(line);
    if (found) out[found[1]] = (out[found[1]] ?? 0) + Number(found[2]);
  }
  return out;
}

export class StatusPanel {
  /** `onState` is told 'serving', 'loading', 'down', 'stopping', 'locked' or 'gone', and the tokens per second. */
  constructor(settings, onState) {
    this.settings = settings;
    this.onState = onState;
    this.samples = [];
    this.views = graphs.map((graph) => new Graph(graph));
    byId('graphs').append(...this.views.map((view) => view.node));
    document.addEventListener('visibilitychange', () => this.tick());
    this.tick();
  }

  get open() {
    return !byId('status').hidden;
  }

  async tick() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    await this.look();
    this.timer = setTimeout(() => this.tick(), this.open ? 1000 : 3000);
  }

  async look() {
    let state = 'gone',
      speed = 0;
    try {
      const response = await fetch('/metrics', {
        headers: headersFor(this.settings),
        cache: 'no-store',
        signal: AbortSignal.timeout(5000),
      });
      if (response.status === 401) state = 'locked';
      else if (response.ok) {
        const now = readMetrics(await response.text());
        const before = this.samples.at(-1);
        speed = rate(now, before, 'ds4_answer_tokens_total');
        this.views.forEach((view) => view.add(now, before, this.samples));
        this.samples.push(now);
        if (this.samples.length > kept) this.samples.shift();
        state = now.ds4_ready ? 'serving' : 'loading';
        if (this.open) this.draw(now);
      }
    } catch {
      // Not there: said below.
    }
    if (state === 'loading') state = await this.whyNotReady();
    this.onState(state, speed);
  }

  async whyNotReady() {
    try {
      const { status } = await (await fetch('/health', { cache: 'no-store' })).json();
      return { stopping: 'stopping', ok: 'serving', 'device down': 'down' }[status] ?? 'loading';
    } catch {
      return 'gone';
    }
  }

  show(visible) {
    byId('status').hidden = !visible;
    if (visible && this.samples.length > 0) this.draw(this.samples.at(-1));
    if (visible) this.tick();
  }

  draw(now) {
    this.views.forEach((view) => view.draw(now));
    const mean = (name) => (now[`${name}_count`] ? now[`${name}_sum`] / now[`${name}_count`] : null);
    const first = mean('ds4_first_token_seconds');
    const facts = [
      ['Answers', number(now.ds4_answers_total ?? 0)],
      ['Tokens written', number(now.ds4_answer_tokens_total ?? 0)],
      ['Prompt tokens computed', number(now.ds4_prompt_tokens_total ?? 0)],
      ['Prompt tokens from cache', number(now.ds4_cached_tokens_total ?? 0)],
      [
        'First token after, mean',
        first === null ? 'no answer yet' : first < 1 ? `${Math.round(first * 1000)} ms` : `${first.toFixed(1)} s`,
      ],
      ['Connections', number(now.ds4_connections ?? 0)],
    ];
    if (now.ds4_kv_disk_bytes !== undefined)
      facts.push(['KV state on disk', `${number(now.ds4_kv_disk_bytes / 1048576)} MiB`]);
    byId('facts').replaceChildren(
      ...facts.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, value))),
    );
  }
}

class Graph {
  constructor(graph) {
    this.graph = graph;
    this.values = graph.lines.map(() => []);
    this.areas = graph.lines.map((_, i) => svg('path', { class: `area line${i}` }));
    this.lines = graph.lines.map((_, i) => svg('path', { class: `line line${i}` }));
    this.now = make('span', { class: 'now' });
    this.top = make('span', { class: 'top' });
    this.picture = svg(
      'svg',
      { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img' },
      ...this.areas,
      ...this.lines,
    );
    this.node = make(
      'figure',
      { class: 'graph' },
      make('figcaption', {}, make('span', {}, graph.name), this.now),
      make('div', { class: 'plot' }, this.top, this.picture),
    );
  }

  add(now, before, samples) {
    this.graph.lines.forEach((line, i) => {
      this.values[i].push(line.value(now, before, samples));
      if (this.values[i].length > kept) this.values[i].shift();
    });
  }

  draw(now) {
    const { graph } = this;
    const seen = this.values.flat().filter((value) => value !== null);
    const top = graph.most?.(now) || roundUp(Math.max(graph.least ?? 1, ...seen));
    this.values.forEach((values, i) => {
      const points = values.map((value, at) => {
        return [
          width - ((values.length - 1 - at) * width) / (Math.max(fewest, values.length) - 1),
          height - 2 - ((height - 6) * Math.min(value ?? 0, top)) / top,
        ];
      });
      const path = points.map(([x, y], at) => `${at ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
      this.lines[i].setAttribute('d', path);
      this.areas[i].setAttribute(
        'd',
        points.length ? `${path}L${width} ${height}L${points[0][0].toFixed(1)} ${height}Z` : '',
      );
    });
    const text = graph.lines
      .map((line, i) => {
        const value = this.values[i].at(-1);
        const shown =
          value === null || value === undefined ? '–' : value < 10 && value % 1 ? value.toFixed(1) : number(value);
        return graph.lines.length > 1
          ? `${shown} ${line.label}`
          : `${shown}${graph.most && graph.unit !== '%' && graph.most(now) ? ` of ${number(graph.most(now))}` : ''}`;
      })
      .join(', ');
    this.now.textContent = graph.unit ? `${text} ${graph.unit}` : text;
    this.top.textContent = number(top);
    this.picture.setAttribute('aria-label', `${graph.name}: ${this.now.textContent}`);
  }
}

/** 1, 2, 5, 10, ... */
function roundUp(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * unit).find((step) => step >= value * 0.999);
}
