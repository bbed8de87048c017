// Making nodes. Text becomes text nodes; nothing here, or anywhere on this page, takes HTML.

/** A node: `properties` are attributes, `on...` listeners, `class`; children are nodes or strings. */
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

const paths = {
  plus: 'M12 5v14M5 12h14',
  close: 'M6 6l12 12M18 6L6 18',
  menu: 'M4 7h16M4 12h16M4 17h10',
  up: 'M12 19V5M6 11l6-6 6 6',
  down: 'M12 5v14M6 13l6 6 6-6',
  stop: 'M8 8h8v8H8z',
  copy: 'M9 9h10v10H9zM5 15V5h10',
  check: 'M5 13l4 4L19 7',
  edit: 'M4 20l1-4L16 5l3 3L8 19zM14 7l3 3',
  retry: 'M19 12a7 7 0 1 1-2-5l2 2M19 4v5h-5',
  trash: 'M5 7h14M9 7V5h6v2M7 7l1 12h8l1-12M10 11v5M14 11v5',
  save: 'M12 4v11M7 10l5 5 5-5M5 19h14',
  more: 'M6 12h.01M12 12h.01M18 12h.01',
  sliders: 'M5 8h8M17 8h2M5 16h2M11 16h8M15 6v4M9 14v4',
  pulse: 'M3 12h4l3-7 4 14 3-7h4',
  keyboard: 'M3 7h18v10H3zM7 11h.01M11 11h.01M15 11h.01M8 14h8',
  moon: 'M19 14a7 7 0 0 1-9-9 7 7 0 1 0 9 9z',
  wrench: 'M14 6a4 4 0 0 0-4 5l-6 6 3 3 6-6a4 4 0 0 0 5-5l-2 2-3-1-1-3z',
};

export function svg(tag, attributes, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export function icon(name) {
  return svg('svg', { viewBox: '0 0 24 24', class: 'glyph', 'aria-hidden': 'true' }, svg('path', { d: paths[name] }));
}

/** A button with a picture and words that only a reader hears. */
export function iconButton(name, label, action) {
  return make(
    'button',
    { type: 'button', class: 'icon', 'aria-label': label, title: label, onclick: action },
    icon(name),
  );
}

/** Copies and says so for a moment in place of the picture. */
export function copyButton(label, text) {
  const button = iconButton('copy', label, async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      done = copyWithSelection(text());
    }
    button.replaceChildren(icon(done ? 'check' : 'close'));
    byId('announce').textContent = done ? 'Copied' : 'Copying is not allowed here';
    setTimeout(() => button.replaceChildren(icon('copy')), 1500);
  });
  return button;
}

/** Where the clipboard is not given to pages, as on plain http to another machine. */
function copyWithSelection(text) {
  const area = make('textarea', { class: 'hidden' });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  return done;
}

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** A size of context: powers of two by their usual names. */
export function contextSize(tokens) {
  return tokens >= 1024 && tokens % 1024 === 0 ? `${tokens / 1024}K` : number(tokens);
}

export function number(value) {
  if (value >= 1e6) return `${(value / 1e6).toFixed(value >= 1e7 ? 0 : 1)}M`;
  if (value >= 1e4) return `${Math.round(value / 1e3)}k`;
  if (value >= 1e3) return `${(value / 1e3).toFixed(1)}k`;
  return String(Math.round(value));
}
