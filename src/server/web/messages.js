// One conversation on the screen. A view per message; a change of a message draws that message again, at most once a
// frame, and of a text only its last block.
import { MarkdownView } from './markdown.js';
import { byId, copyButton, icon, iconButton, make, number } from './dom.js';

export class Log {
  /** `actions`: edit(session, index, text), retry(session, index), result(session, index, call, text). */
  constructor(actions) {
    this.actions = actions;
    this.node = byId('log');
    this.scroller = byId('scroll');
    this.views = [];
    this.waiting = false;
    this.follows = true;
    this.scroller.addEventListener('scroll', () => this.scrolled(), { passive: true });
    byId('to-end').addEventListener('click', () => this.toEnd(true));
  }

  show(session) {
    this.session = session;
    this.views = [];
    this.node.replaceChildren();
    this.sync();
    this.toEnd(false);
  }

  /** Messages were added, removed or changed. */
  sync() {
    const { messages } = this.session;
    while (this.views.length > messages.length) this.views.pop().node.remove();
    messages.forEach((message, i) => {
      if (this.views[i]?.message !== message) {
        const view = message.role === 'assistant' ? new AnswerView(this, message, i) : new GivenView(this, message, i);
        if (this.views[i]) this.views[i].node.replaceWith(view.node);
        else this.node.append(view.node);
        this.views[i] = view;
      }
      this.views[i].draw(i === messages.length - 1);
    });
    byId('welcome').hidden = messages.length > 0;
    this.keepUp();
  }

  /** The last message grew. */
  grew() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      const view = this.views.at(-1);
      if (view) view.draw(true);
      this.keepUp();
    });
  }

  keepUp() {
    if (this.follows) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.scrolled();
  }

  toEnd(smoothly) {
    this.follows = true;
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior: smoothly ? 'smooth' : 'instant' });
    this.scrolled();
  }

  /** Who scrolls up is reading: the page stays where it is until they come back down. */
  scrolled() {
    const left = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight;
    this.follows = left < 60;
    byId('to-end').hidden = left < 240;
  }
}

/** What a person said, or a tool's result. */
class GivenView {
  constructor(log, message, index) {
    this.message = message;
    const tool = message.role === 'tool';
    this.text = make('div', { class: 'bubble' }, message.text);
    this.actions = make(
      'div',
      { class: 'actions' },
      copyButton('Copy', () => message.text),
    );
    if (!tool) this.actions.append(iconButton('edit', 'Edit and send again', () => this.edit(log, index)));
    this.node = make('li', { class: `message ${message.role}`, 'aria-label': tool ? 'Tool result' : 'You' });
    if (tool) this.node.append(make('div', { class: 'label' }, 'Tool result'));
    this.node.append(this.text, this.actions);
  }

  draw() {}

  edit(log, index) {
    if (this.form) return;
    const area = make('textarea', {
      'aria-label': 'Your message',
      rows: Math.min(12, this.message.text.split('\n').length + 1),
    });
    area.value = this.message.text;
    const leave = () => {
      this.form.replaceWith(this.text);
      this.actions.hidden = false;
      this.form = null;
    };
    const send = () => {
      if (area.value.trim()) log.actions.edit(log.session, index, area.value);
    };
    area.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') {
        event.stopPropagation();
        leave();
      }
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) send();
    });
    this.form = make(
      'form',
      { class: 'edit', onsubmit: (event) => (event.preventDefault(), send()) },
      area,
      make(
        'div',
        { class: 'buttons' },
        make('span', { class: 'quiet' }, 'What follows this message is replaced.'),
        make('button', { type: 'button', onclick: leave }, 'Cancel'),
        make('button', { type: 'submit', class: 'primary' }, 'Send'),
      ),
    );
    this.text.replaceWith(this.form);
    this.actions.hidden = true;
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

class AnswerView {
  constructor(log, message, index) {
    this.log = log;
    this.message = message;
    this.index = index;
    this.thoughtText = make('div', { class: 'markdown' });
    this.thoughtName = make('span');
    this.thoughts = make(
      'details',
      { class: 'thoughts', hidden: true },
      make('summary', {}, this.thoughtName),
      this.thoughtText,
    );
    this.thoughts.addEventListener('toggle', () => this.draw(this.last));
    this.text = make('div', { class: 'markdown' });
    this.calls = make('div', { class: 'calls' });
    this.problem = make('div', { class: 'problem', role: 'alert', hidden: true });
    this.meta = make('span', { class: 'meta' });
    this.retry = iconButton('retry', 'Answer again', () => log.actions.retry(log.session, index));
    this.actions = make(
      'div',
      { class: 'actions' },
      copyButton('Copy the answer', () => message.text),
      this.retry,
      this.meta,
    );
    this.dots = make('div', { class: 'dots', 'aria-label': 'The model is working' }, make('i'), make('i'), make('i'));
    this.node = make(
      'li',
      { class: 'message assistant', 'aria-label': 'Answer' },
      this.thoughts,
      this.text,
      this.calls,
      this.dots,
      this.problem,
      this.actions,
    );
    this.markdown = new MarkdownView(this.text);
    this.thoughtMarkdown = new MarkdownView(this.thoughtText);
  }

  draw(last) {
    const { message } = this;
    this.last = last;
    const running = message.state === 'running';
    this.markdown.update(message.text);
    this.drawThoughts(running);
    this.drawCalls(running, last);
    this.dots.hidden = !running || message.text !== '' || message.calls.length > 0;
    this.node.classList.toggle('writing', running && message.text !== '' && message.calls.length === 0);
    this.problem.hidden = !message.problem;
    if (message.problem && this.problem.textContent === '') {
      this.problem.append(
        make('span', {}, message.problem),
        make(
          'button',
          {
            type: 'button',
            onclick: () => this.log.actions.retry(this.log.session, this.index),
          },
          'Try again',
        ),
      );
    }
    this.actions.hidden = running;
    this.meta.textContent = metaOf(message);
  }

  /** Folded unless someone opens them; only then are they drawn. */
  drawThoughts(running) {
    const { message } = this;
    this.thoughts.hidden = !message.reasoning;
    if (!message.reasoning) return;
    const thinking = running && message.text === '' && message.calls.length === 0;
    const seconds = Math.max(0, Math.round(((message.thoughtUntil ?? message.started) - message.started) / 1000));
    this.thoughtName.textContent = thinking
      ? 'Thinking'
      : seconds < 1
        ? 'Thought for a moment'
        : `Thought for ${seconds} s`;
    this.thoughts.classList.toggle('thinking', thinking);
    if (this.thoughts.open) this.thoughtMarkdown.update(message.reasoning);
  }

  drawCalls(running, last) {
    const { calls } = this.message;
    const state = JSON.stringify([calls, running, last]);
    if (this.drawnCalls === state) return;
    this.drawnCalls = state;
    const answered = new Set(
      this.log.session.messages
        .slice(this.index + 1)
        .filter((m) => m.role === 'tool')
        .map((m) => m.call),
    );
    calls.forEach((call, i) => {
      const card = make(
        'div',
        { class: 'call' },
        make('div', { class: 'name' }, icon('wrench'), make('span', {}, 'calls '), make('code', {}, call.name)),
        make('pre', { tabindex: '0' }, pretty(call.arguments)),
      );
      if (!running && !answered.has(call.id)) card.append(this.resultForm(call));
      if (this.calls.children[i]) this.calls.children[i].replaceWith(card);
      else this.calls.append(card);
    });
  }

  resultForm(call) {
    const area = make('textarea', {
      rows: 2,
      'aria-label': `Result of ${call.name}`,
      placeholder: 'What did the tool say?',
    });
    const send = (event) => {
      event.preventDefault();
      this.log.actions.result(this.log.session, this.index, call.id, area.value);
    };
    return make(
      'form',
      { class: 'result', onsubmit: send },
      area,
      make('div', { class: 'buttons' }, make('button', { type: 'submit', class: 'primary' }, 'Send the result')),
    );
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function metaOf(message) {
  const parts = [];
  if (message.state === 'stopped') parts.push('stopped');
  if (message.finish === 'length') parts.push('cut at the limit');
  if (message.usage) {
    const { prompt, cached, answer, speed } = message.usage;
    parts.push(`${number(answer)} tokens`);
    if (speed) parts.push(`${speed < 10 ? speed.toFixed(1) : Math.round(speed)} tokens/s`);
    if (cached) parts.push(`${number(cached)} of ${number(prompt)} prompt tokens from cache`);
  }
  return parts.join(' · ');
}
