// Conversations, kept in localStorage under one key each, so that two tabs do not overwrite each other's list.
//
// A session: { id, title, named, created, updated, messages }. A message: { role: 'user', text },
// { role: 'tool', call, text } or { role: 'assistant', text, reasoning, calls, ... } (see chat_stream.js).

const prefix = 'ds4.chat.';

export class Sessions {
  /** `onProblem` is told once when something cannot be kept. */
  constructor(onProblem) {
    this.onProblem = onProblem;
    this.all = new Map();
    this.timers = new Map();
    try {
      for (let i = 0; i < localStorage.length; ++i) {
        const key = localStorage.key(i);
        if (key.startsWith(prefix)) this.read(localStorage.getItem(key));
      }
    } catch {
      onProblem('This browser keeps nothing for this page: conversations last until it is closed.');
    }
  }

  /** A stored session; what is not one is left alone. */
  read(text) {
    try {
      const session = JSON.parse(text);
      if (typeof session?.id === 'string' && Array.isArray(session.messages)) {
        for (const message of session.messages) {
          if (message.state === 'running') message.state = 'stopped'; // the page was closed meanwhile
        }
        this.all.set(session.id, session);
        return session;
      }
    } catch {
      // Not ours.
    }
    return null;
  }

  list() {
    return [...this.all.values()].sort((a, b) => b.updated - a.updated);
  }

  get(id) {
    return this.all.get(id);
  }

  create() {
    const id = Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
    const session = { id, title: 'New chat', named: false, created: Date.now(), updated: Date.now(), messages: [] };
    this.all.set(id, session);
    return session;
  }

  /** Written at once; while an answer streams, once a second. */
  save(session, soon = false) {
    if (!this.all.has(session.id)) return;
    clearTimeout(this.timers.get(session.id));
    if (soon) {
      if (Date.now() - (session.written ?? 0) < 1000) {
        this.timers.set(
          session.id,
          setTimeout(() => this.save(session), 1000),
        );
        return;
      }
    }
    session.written = Date.now();
    try {
      const { written, ...kept } = session;
      localStorage.setItem(prefix + session.id, JSON.stringify(kept));
    } catch {
      this.onProblem('This browser has no more room for conversations: delete or export some. This one is not kept.');
    }
  }

  remove(id) {
    clearTimeout(this.timers.get(id));
    this.all.delete(id);
    try {
      localStorage.removeItem(prefix + id);
    } catch {
      // It was never stored either.
    }
  }

  /** Another tab has written: its session, or null when this was not about one. `undefined` text: it was deleted. */
  changedElsewhere(key, text) {
    if (!key?.startsWith(prefix)) return null;
    const id = key.slice(prefix.length);
    if (text === null) this.all.delete(id);
    else this.read(text);
    return id;
  }
}

export function titleFor(text) {
  const line = text.trim().split('\n')[0].replace(/\s+/g, ' ');
  return line.length > 48 ? `${line.slice(0, 47).trimEnd()}…` : line || 'New chat';
}

export function asMarkdown(session) {
  const parts = [`# ${session.title}`];
  for (const message of session.messages) {
    if (message.role === 'user') parts.push(`## You\n\n${message.text}`);
    else if (message.role === 'tool') parts.push(`## Tool result\n\n${fenced(message.text)}`);
    else {
      const lines = ['## Answer'];
      if (message.reasoning) lines.push(`<details><summary>Thinking</summary>\n\n${message.reasoning}\n\n</details>`);
      if (message.text) lines.push(message.text);
      for (const call of message.calls ?? [])
        lines.push(`Calls \`${call.name}\`:\n\n${fenced(call.arguments, 'json')}`);
      parts.push(lines.join('\n\n'));
    }
  }
  return `${parts.join('\n\n')}\n`;
}

/** A fence longer than any in the text. */
function fenced(text, language = '') {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
  const fence = '`'.repeat(longest + 1);
  return `${fence}${language}\n${text}\n${fence}`;
}
