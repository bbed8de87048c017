// The page: which conversation is shown, what is being answered, settings, keys. What it keeps stays in the browser.
import { ChatError, headersFor, requestFor, streamAnswer } from './chat_stream.js';
import { byId, contextSize, download, icon, iconButton, make, number } from './dom.js';
import { Log } from './messages.js';
import { Sessions, asMarkdown, titleFor } from './sessions.js';
import { StatusPanel } from './status.js';

for (const node of document.querySelectorAll('[data-icon]')) node.prepend(icon(node.dataset.icon));

// Settings.

const numbers = ['temperature', 'top_p', 'min_p', 'seed', 'max_tokens'];
const texts = ['system', 'key', 'tools'];
const settings = Object.assign({ system: '', key: '', tools: '', thinking: '' }, stored('ds4.settings', {}));

function stored(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function store(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Said once by the sessions.
  }
}

const settingsForm = byId('settings').querySelector('form');

function openSettings(problem = '') {
  for (const name of [...texts, ...numbers]) settingsForm.elements[name].value = settings[name] ?? '';
  byId('settings-problem').textContent = problem;
  byId('settings').showModal();
}

function readSettings() {
  const fields = settingsForm.elements;
  let problem = '';
  if (fields.tools.value.trim()) {
    try {
      if (!Array.isArray(JSON.parse(fields.tools.value))) problem = 'Tools: expected a JSON array.';
    } catch (error) {
      problem = `Tools: ${error.message}`;
    }
  }
  for (const name of numbers) {
    if (!fields[name].validity.valid)
      problem = `${fields[name].parentNode.firstChild.textContent.trim()}: ${fields[name].validationMessage}`;
  }
  byId('settings-problem').textContent = problem;
  if (problem.startsWith('Tools')) fields.tools.closest('details').open = true;
  if (problem) return false;
  for (const name of texts) settings[name] = fields[name].value.trim();
  for (const name of numbers) {
    if (fields[name].value === '') delete settings[name];
    else settings[name] = Number(fields[name].value);
  }
  saveSettings();
  return true;
}

function saveSettings() {
  store('ds4.settings', JSON.stringify(settings));
}

settingsForm.addEventListener('submit', (event) => {
  if (!readSettings()) event.preventDefault();
  else refreshModel();
});
byId('settings').addEventListener('cancel', (event) => {
  if (!readSettings()) event.preventDefault();
  else refreshModel();
});

// Notices.

function notice(text) {
  byId('notice-text').textContent = text;
  byId('notice').hidden = !text;
}
byId('notice-close').addEventListener('click', () => notice(''));

function announce(text) {
  byId('announce').textContent = text;
}

// Conversations.

const sessions = new Sessions(notice);
const running = new Map(); // by session: what ends its answer
let current = sessions.get(stored('ds4.current', '')) ?? sessions.list()[0] ?? sessions.create();

const log = new Log({ edit: editAndSend, retry, result: giveResult });

function show(session) {
  const before = current;
  current = session;
  if (before !== session && before.messages.length === 0 && !before.named) sessions.remove(before.id);
  store('ds4.current', JSON.stringify(session.id));
  log.show(session);
  drawAll();
  closeDrawer();
}

function newChat() {
  show(current.messages.length === 0 ? current : sessions.create());
  byId('prompt').focus();
}

function drawAll() {
  byId('title').textContent = current.title;
  document.title = current.messages.length ? `${current.title} · ds4` : 'ds4';
  byId('send').hidden = running.has(current.id);
  byId('stop').hidden = !running.has(current.id);
  drawContext();
  drawList();
}

function drawContext() {
  const usage = current.messages.findLast((message) => message.usage)?.usage;
  const total = model.context;
  byId('context').hidden = !usage || !total;
  if (!usage || !total) return;
  const used = usage.prompt + usage.answer;
  byId('context-text').textContent = `${number(used)} of ${contextSize(total)}`;
  byId('context').title = `${used} of ${total} tokens of context are used`;
  byId('context-bar').style.width = `${Math.min(100, (100 * used) / total)}%`;
}

function drawList() {
  const list = sessions.list().filter((session) => session.messages.length > 0 || session === current);
  byId('sessions').replaceChildren(...list.map(drawEntry));
}

function drawEntry(session) {
  const open = make('button', { class: 'open', title: session.title, onclick: () => show(session) }, session.title);
  if (session === current) open.setAttribute('aria-current', 'page');
  const node = make('li', { class: running.has(session.id) ? 'running' : undefined }, open);
  if (session.messages.length === 0) return node;
  node.append(
    make(
      'div',
      { class: 'entry-actions' },
      iconButton('edit', `Rename ${session.title}`, () => rename(session, node)),
      iconButton('save', `Export ${session.title}`, () => exportMenu(session, node)),
      iconButton('trash', `Delete ${session.title}`, () => askToDelete(session, node)),
    ),
  );
  return node;
}

function rename(session, node) {
  const field = make('input', { value: session.title, 'aria-label': 'Name of the conversation', maxlength: 200 });
  let left = false;
  const leave = (keep) => {
    if (left) return;
    left = true;
    const title = field.value.trim();
    if (keep && title) {
      Object.assign(session, { title, named: true });
      sessions.save(session);
    }
    drawAll();
  };
  field.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') leave(true);
    if (event.key === 'Escape') {
      event.stopPropagation();
      leave(false);
    }
  });
  field.addEventListener('blur', () => leave(true));
  node.replaceChildren(field);
  field.focus();
  field.select();
}

function exportMenu(session, node) {
  const name =
    session.title
      .replace(/[^\p{L}\p{N} ._-]+/gu, '')
      .trim()
      .replaceAll(' ', '-') || 'chat';
  const choice = (label, type, ending, text) =>
    make(
      'button',
      {
        class: 'primary',
        onclick: () => (download(`${name}.${ending}`, type, text()), drawList()),
      },
      label,
    );
  node.replaceChildren(
    make(
      'div',
      { class: 'confirm' },
      choice('Markdown', 'text/markdown', 'md', () => asMarkdown(session)),
      choice('JSON', 'application/json', 'json', () => JSON.stringify(session, null, 2)),
      make('button', { onclick: drawList }, 'Cancel'),
    ),
  );
  node.querySelector('button').focus();
}

function askToDelete(session, node) {
  node.replaceChildren(
    make(
      'div',
      { class: 'confirm' },
      make('button', { class: 'danger', onclick: () => remove(session) }, 'Delete'),
      make('button', { onclick: drawList }, 'Keep'),
    ),
  );
  node.querySelector('button').focus();
}

function remove(session) {
  running.get(session.id)?.abort();
  sessions.remove(session.id);
  if (session === current) {
    current = sessions.list()[0] ?? sessions.create();
    show(current);
  } else {
    drawList();
  }
  announce('Deleted');
}

window.addEventListener('storage', (event) => {
  const id = sessions.changedElsewhere(event.key, event.newValue);
  if (id === null) return;
  if (id === current.id && !running.has(id)) {
    const again = sessions.get(id);
    if (!again) return show(sessions.list()[0] ?? sessions.create());
    current = again;
    log.show(current);
  }
  drawAll();
});

// Questions and answers.

function send(text) {
  if (!text.trim() || running.has(current.id)) return false;
  current.messages.push({ role: 'user', text });
  if (!current.named && current.messages.length === 1) current.title = titleFor(text);
  answer(current);
  return true;
}

/** The message is replaced, and what came after it is gone; what came before is not computed again by the server. */
function editAndSend(session, index, text) {
  running.get(session.id)?.abort();
  session.messages.splice(index, Infinity, { role: 'user', text });
  if (!session.named && index === 0) session.title = titleFor(text);
  answer(session);
}

function retry(session, index) {
  running.get(session.id)?.abort();
  session.messages.splice(index);
  answer(session);
}

function giveResult(session, index, call, text) {
  session.messages.push({ role: 'tool', call, text });
  const given = new Set(session.messages.slice(index + 1).map((message) => message.call));
  if (session.messages[index].calls.every(({ id }) => given.has(id))) return answer(session);
  touched(session);
}

function touched(session, soon = false) {
  if (!soon) session.updated = Date.now();
  sessions.save(session, soon);
  if (session !== current) return drawList();
  log.sync();
  drawAll();
}

async function answer(session) {
  const message = { role: 'assistant', text: '', reasoning: '', calls: [], state: 'running', started: Date.now() };
  const abort = new AbortController();
  let body;
  try {
    body = requestFor(session, settings);
  } catch (error) {
    body = null;
    Object.assign(message, { state: 'failed', problem: `Settings, tools: ${error.message}` });
  }
  session.messages.push(message);
  running.set(session.id, abort);
  log.follows = log.follows || session === current;
  touched(session);
  if (session === current) log.toEnd(false);
  try {
    if (body) {
      await streamAnswer(message, body, settings, abort.signal, () => {
        if (session === current) log.grew();
        sessions.save(session, true);
      });
    }
    if (message.state === 'running') message.state = abort.signal.aborted ? 'stopped' : 'done';
  } catch (error) {
    Object.assign(message, { state: 'failed', problem: error instanceof ChatError ? error.message : String(error) });
    if (error.status === 401) openSettings('The server asks for an API key.');
  }
  if (running.get(session.id) === abort) running.delete(session.id);
  touched(session);
  announce(
    message.state === 'done' ? 'The answer is complete' : message.state === 'stopped' ? 'Stopped' : message.problem,
  );
}

function stop() {
  running.get(current.id)?.abort();
}

// The message box.

const prompt = byId('prompt');

function grow() {
  prompt.style.height = 'auto';
  prompt.style.height = `${Math.min(prompt.scrollHeight, window.innerHeight * 0.4)}px`;
}

prompt.addEventListener('input', grow);
prompt.addEventListener('keydown', (event) => {
  const touch = window.matchMedia('(pointer: coarse)').matches;
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && !touch) {
    event.preventDefault();
    submit();
  }
  if (event.key === 'ArrowUp' && prompt.value === '') {
    const view = log.views.findLast((one) => one.message.role === 'user');
    if (view && !running.has(current.id)) {
      event.preventDefault();
      view.edit(log, log.views.indexOf(view));
    }
  }
});

function submit() {
  if (!send(prompt.value)) return;
  prompt.value = '';
  grow();
}

byId('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  submit();
});
byId('stop').addEventListener('click', stop);
byId('thinking').value = settings.thinking;
byId('thinking').addEventListener('change', (event) => {
  settings.thinking = event.target.value;
  saveSettings();
});

for (const text of [
  'Explain how a mixture of experts works',
  'Write a shell script that finds large files',
  'Plan a weekend in the mountains',
]) {
  byId('examples').append(make('button', { onclick: () => send(text) }, text));
}

// The server.

const model = { name: '', context: 0 };
const stateNames = {
  serving: 'ready',
  loading: 'loading the model',
  down: 'the device has failed',
  stopping: 'stopping',
  locked: 'key needed',
  gone: 'not reachable',
};
let lastState = '';

async function refreshModel() {
  try {
    const [models, props] = await Promise.all(
      ['/v1/models', '/props'].map(async (path) => {
        const response = await fetch(path, { headers: headersFor(settings) });
        if (!response.ok) throw new ChatError('', response.status);
        return response.json();
      }),
    );
    model.name = models.data[0].id;
    model.context = models.data[0].context_length;
    const defaults = props.default_generation_settings.params;
    for (const name of numbers) {
      const value = defaults[name];
      if (value !== undefined && name !== 'max_tokens')
        settingsForm.elements[name].placeholder = Number(value.toPrecision(6));
    }
    byId('welcome-model').textContent =
      `${model.name} with ${contextSize(model.context)} tokens of context, on this server.`;
    drawContext();
  } catch {
    // The panel says what is the matter.
  }
}

const panel = new StatusPanel(settings, (state, speed) => {
  byId('server-state').dataset.state = state;
  byId('server-state-text').textContent =
    state === 'serving' && speed >= 0.5 ? `${number(speed)} tokens/s` : stateNames[state];
  byId('server-state').setAttribute('aria-label', `Server: ${byId('server-state-text').textContent}. Show its status`);
  if (state === 'serving' && (lastState !== 'serving' || !model.name)) refreshModel();
  lastState = state;
});

function toggleStatus() {
  panel.show(!panel.open);
  closeDrawer();
}
byId('server-state').addEventListener('click', toggleStatus);
byId('open-status').addEventListener('click', toggleStatus);
byId('status-close').addEventListener('click', () => panel.show(false));

// Around it.

const narrow = window.matchMedia('(max-width: 800px)');

function toggleSidebar() {
  if (narrow.matches) document.body.classList.toggle('drawer');
  else document.body.classList.toggle('no-sidebar');
}

function closeDrawer() {
  document.body.classList.remove('drawer');
}

byId('sidebar-open').addEventListener('click', toggleSidebar);
byId('sidebar-close').addEventListener('click', closeDrawer);
byId('shade').addEventListener('click', closeDrawer);
byId('new-chat').addEventListener('click', newChat);
byId('open-settings').addEventListener('click', () => openSettings());

const themes = { '': 'as the system', light: 'light', dark: 'dark' };

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  store('ds4.theme', theme);
  byId('theme-name').textContent = `Theme: ${themes[theme]}`;
}
setTheme(document.documentElement.dataset.theme ?? '');
byId('theme').addEventListener('click', () => {
  const names = Object.keys(themes);
  setTheme(names[(names.indexOf(document.documentElement.dataset.theme ?? '') + 1) % names.length]);
});

function step(by) {
  const list = sessions.list().filter((session) => session.messages.length > 0);
  if (list.length) show(list[(list.indexOf(current) + by + list.length) % list.length]);
}

// By code: with Alt some keyboards type other letters.
const keys = [
  ['Enter', 'send; Shift Enter for a new line'],
  ['Escape', 'stop the answer, or close what is open'],
  ['↑', 'in an empty box: edit the last message'],
  ['/', 'to the message box'],
  ['Alt N', 'new chat', 'KeyN', newChat],
  ['Alt ↓', 'next conversation', 'ArrowDown', () => step(1)],
  ['Alt ↑', 'previous conversation', 'ArrowUp', () => step(-1)],
  ['Alt L', 'list of conversations', 'KeyL', toggleSidebar],
  ['Alt S', 'server status', 'KeyS', toggleStatus],
  ['Alt ,', 'settings', 'Comma', () => openSettings()],
  ['?', 'this list'],
];
byId('key-list').append(
  ...keys.map(([key, what]) =>
    make('div', {}, make('dt', {}, ...key.split(' ').map((one) => make('kbd', {}, one))), make('dd', {}, what)),
  ),
);
byId('open-keys').addEventListener('click', () => byId('keys').showModal());

document.addEventListener('keydown', (event) => {
  if (document.querySelector('dialog[open]')) return;
  const typing = event.target.matches('input, textarea, select');
  if (event.altKey && !event.ctrlKey && !event.metaKey) {
    const action = keys.find(([, , code]) => code === event.code)?.[3];
    if (action) {
      event.preventDefault();
      action();
    }
  } else if (event.key === 'Escape') {
    if (document.body.classList.contains('drawer')) closeDrawer();
    else if (running.has(current.id)) stop();
    else if (panel.open) panel.show(false);
  } else if (!typing && event.key === '/') {
    event.preventDefault();
    prompt.focus();
  } else if (!typing && event.key === '?') {
    byId('keys').showModal();
  }
});

for (const dialog of document.querySelectorAll('dialog')) {
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.querySelector('form').requestSubmit();
  });
}

window.addEventListener('pagehide', () => {
  for (const [id, abort] of running) {
    const session = sessions.get(id);
    abort.abort();
    if (!session) continue;
    session.messages.at(-1).state = 'stopped';
    sessions.save(session);
  }
});

show(current);
