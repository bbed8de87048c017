// Markdown to nodes, for text that nobody vouches for: it ends in text nodes and in the attribute of links that were
// checked, never in markup. Everything is linear in the text. A block that has not changed keeps its node, so a stream
// draws its last block anew and nothing else.
import { copyButton, make } from './dom.js';
import { highlight } from './highlight.js';

const maxDepth = 12;
const fenceLine = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const headingLine = /^ {0,3}(#{1,6})(?:[ \t]+(.*)|)$/;
const ruleLine = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const itemLine = /^( {0,3})([-*+]|\d{1,9}[.)])(?:[ \t]+|$)/;
const quoteLine = /^ {0,3}> ?/;
const tableRule = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** Shows a growing text in `element`. */
export class MarkdownView {
  constructor(element) {
    this.element = element;
    this.drawn = []; // what each child shows
  }

  update(text) {
    const lines = text.split('\n');
    const blocks = splitBlocks(lines);
    blocks.forEach((block, i) => {
      const source = block.lines.join('\n') + (block.open ? '\0' : '');
      if (this.drawn[i] === source) return;
      const node = drawBlock(block, 0);
      if (i < this.drawn.length) this.element.children[i].replaceWith(node);
      else this.element.append(node);
      this.drawn[i] = source;
    });
    while (this.drawn.length > blocks.length) {
      this.element.lastElementChild.remove();
      this.drawn.pop();
    }
  }
}

function startsBlock(line) {
  return (
    fenceLine.test(line) || headingLine.test(line) || ruleLine.test(line) || quoteLine.test(line) || itemLine.test(line)
  );
}

const isBlank = (line) => line.trim() === '';
const indentOf = (line) => line.length - line.trimStart().length;

function splitBlocks(lines) {
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    if (isBlank(lines[at])) {
      ++at;
      continue;
    }
    const [block, next] = takeBlock(lines, at);
    block.lines = lines.slice(at, next);
    blocks.push(block);
    at = next;
  }
  return blocks;
}

function takeBlock(lines, at) {
  const line = lines[at];
  const fence = fenceLine.exec(line);
  if (fence) return takeFence(lines, at, fence);
  if (ruleLine.test(line)) return [{ kind: 'rule' }, at + 1];
  if (headingLine.test(line)) return [{ kind: 'heading' }, at + 1];
  let end = at + 1;
  if (quoteLine.test(line)) {
    while (end < lines.length && quoteLine.test(lines[end])) ++end;
    return [{ kind: 'quote' }, end];
  }
  if (itemLine.test(line)) return [{ kind: 'list' }, endOfList(lines, at)];
  if (
    line.includes('|') &&
    end < lines.length &&
    lines[end].includes('-') &&
    tableRule.test(lines[end]) &&
    cells(line).length === cells(lines[end]).length
  ) {
    while (end < lines.length && lines[end].includes('|')) ++end;
    return [{ kind: 'table' }, end];
  }
  while (end < lines.length && !isBlank(lines[end]) && !startsBlock(lines[end])) ++end;
  return [{ kind: 'text' }, end];
}

function takeFence(lines, at, [, marks, info]) {
  let end = at + 1;
  const closes = (line) => {
    const text = line.trim();
    return text.length >= marks.length && indentOf(line) < 4 && text === marks[0].repeat(text.length);
  };
  while (end < lines.length && !closes(lines[end])) ++end;
  const open = end >= lines.length;
  return [
    { kind: 'code', language: info.trim().split(/\s/)[0], indent: indentOf(lines[at]), open },
    open ? end : end + 1,
  ];
}

/** A list goes on over blank lines as long as items or indented lines follow. */
function endOfList(lines, at) {
  let end = at + 1;
  while (end < lines.length) {
    if (!isBlank(lines[end])) {
      const own = itemLine.test(lines[end]) && !ruleLine.test(lines[end]);
      if (!own && indentOf(lines[end]) < 2 && startsBlock(lines[end])) break;
      ++end;
      continue;
    }
    let next = end;
    while (next < lines.length && isBlank(lines[next])) ++next;
    if (next >= lines.length || !(itemLine.test(lines[next]) || indentOf(lines[next]) >= 2)) break;
    end = next;
  }
  return end;
}

function drawBlock(block, depth) {
  if (depth > maxDepth) return make('p', {}, block.lines.join('\n'));
  switch (block.kind) {
    case 'code':
      return drawCode(block);
    case 'rule':
      return make('hr');
    case 'heading':
      return drawHeading(block.lines[0]);
    case 'quote':
      return drawInside(
        make('blockquote'),
        block.lines.map((line) => line.replace(quoteLine, '')),
        depth,
      );
    case 'list':
      return drawList(block.lines, depth);
    case 'table':
      return drawTable(block.lines);
    default:
      return inline(make('p'), block.lines.map((line) => line.trimStart()).join('\n'));
  }
}

function drawInside(parent, lines, depth) {
  for (const block of splitBlocks(lines)) parent.append(drawBlock(block, depth + 1));
  return parent;
}

function drawHeading(line) {
  const [, marks, text = ''] = headingLine.exec(line);
  // The page has its own first two levels.
  return inline(make(`h${Math.min(marks.length + 2, 6)}`, { class: `level${marks.length}` }), text.trim());
}

function drawCode(block) {
  const body = block.lines
    .slice(1, block.open ? undefined : -1)
    .map((line) => {
      return line.slice(Math.min(block.indent, indentOf(line)));
    })
    .join('\n');
  const code = make('code');
  highlight(code, body, block.language.toLowerCase());
  return make(
    'figure',
    { class: 'code' },
    make(
      'figcaption',
      {},
      make('span', {}, block.language || 'text'),
      copyButton('Copy the code', () => body),
    ),
    make('pre', { tabindex: '0' }, code),
  );
}

function drawList(lines, depth) {
  const items = [];
  let number = null;
  for (const line of lines) {
    const mark = itemLine.exec(line);
    const belongs = items.length > 0 && mark && mark[1].length >= 2; // two spaces are enough for a nested list
    if (mark && !belongs) {
      if (number === null && /\d/.test(mark[2])) number = parseInt(mark[2], 10);
      items.push({ indent: Math.max(2, mark[0].length), lines: [line.slice(mark[0].length)] });
    } else {
      const item = items.at(-1);
      item.lines.push(line.slice(Math.min(item.indent, indentOf(line))));
    }
  }
  const list = number === null ? make('ul') : make('ol', number === 1 ? {} : { start: number });
  for (const item of items) list.append(drawItem(item.lines, depth));
  return list;
}

function drawItem(lines, depth) {
  const node = make('li');
  const task = /^\[([ xX])\] /.exec(lines[0]);
  if (task) {
    node.className = 'task';
    const done = task[1] !== ' ';
    node.append(
      make('input', { type: 'checkbox', disabled: true, checked: done, 'aria-label': done ? 'done' : 'to do' }),
    );
    lines[0] = lines[0].slice(4);
  }
  const blocks = splitBlocks(lines);
  const tight = !lines.slice(0, -1).some(isBlank);
  for (const block of blocks) {
    if (block.kind === 'text' && tight) inline(node, block.lines.map((line) => line.trimStart()).join('\n'));
    else node.append(drawBlock(block, depth + 1));
  }
  return node;
}

function cells(line) {
  let text = line.trim();
  if (text.startsWith('|')) text = text.slice(1);
  if (text.endsWith('|') && !text.endsWith('\\|')) text = text.slice(0, -1);
  const out = [''];
  let code = false;
  for (let i = 0; i < text.length; ++i) {
    if (text[i] === '\\' && text[i + 1] === '|') out[out.length - 1] += text[++i];
    else if (text[i] === '|' && !code) out.push('');
    else {
      if (text[i] === '`') code = !code;
      out[out.length - 1] += text[i];
    }
  }
  return out.map((cell) => cell.trim());
}

function drawTable(lines) {
  const aligns = cells(lines[1]).map((mark) => {
    return mark.endsWith(':') ? (mark.startsWith(':') ? 'center' : 'right') : undefined;
  });
  const row = (line, tag) => {
    const tr = make('tr');
    const found = cells(line);
    aligns.forEach((align, i) => tr.append(inline(make(tag, { class: align }), found[i] ?? '')));
    return tr;
  };
  return make(
    'div',
    { class: 'table', tabindex: '0', role: 'region', 'aria-label': 'Table' },
    make(
      'table',
      {},
      make('thead', {}, row(lines[0], 'th')),
      make('tbody', {}, ...lines.slice(2).map((line) => row(line, 'td'))),
    ),
  );
}

// Inline text.

/** Where `needle` comes next, asked with growing positions: every byte is looked at once. */
function finder(text, needle) {
  let found = -2;
  return (from) => {
    if (found === -2 || (found >= 0 && found < from)) found = text.indexOf(needle, from);
    return found;
  };
}

/** Ends of code spans: for each length of a run of backticks, where such runs are. */
function backtickRuns(text) {
  const runs = new Map();
  for (let i = text.indexOf('`'); i >= 0; i = text.indexOf('`', i)) {
    const from = i;
    while (text[i] === '`') ++i;
    if (!runs.has(i - from)) runs.set(i - from, { at: 0, places: [] });
    runs.get(i - from).places.push(from);
  }
  return (length, from) => {
    const list = runs.get(length);
    while (list && list.at < list.places.length && list.places[list.at] < from) ++list.at;
    return list?.places[list.at] ?? -1;
  };
}

const elements = { '*': 'em', _: 'em', '**': 'strong', __: 'strong', '~~': 'del' };
const maxOpen = 16;
const bareUrl = /https?:\/\/[^\s<>"'`]+/y;
const angleUrl = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/y;

export function safeUrl(text) {
  if (!/^(?:https?:\/\/|mailto:)/i.test(text)) return null;
  try {
    const url = new URL(text);
    return ['http:', 'https:', 'mailto:'].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function link(href, depth, label) {
  const node = make('a', { href, target: '_blank', rel: 'noopener noreferrer nofollow' });
  return label === undefined ? (node.append(href), node) : inline(node, label, depth + 1);
}

/** Appends `text` with its emphasis, code, links and breaks to `parent`, which it returns. */
function inline(parent, text, depth = 0) {
  const open = [{ node: parent, mark: '' }];
  let plain = '';
  const put = (node) => {
    if (plain) open.at(-1).node.append(plain);
    plain = '';
    if (node) open.at(-1).node.append(node);
  };
  const giveUp = () => {
    // a mark that was never closed is text
    put();
    const { node, mark } = open.pop();
    node.replaceWith(mark, ...node.childNodes);
  };
  const runEnd = backtickRuns(text);
  const closeBracket = finder(text, ']'),
    closeRound = finder(text, ')');
  const closeMath = { '(': finder(text, '\\)'), '[': finder(text, '\\]'), $: finder(text, '$$') };
  const math = (from, to) => put(make('span', { class: 'math' }, text.slice(from, to)));

  for (let i = 0; i < text.length;) {
    const c = text[i];
    if (c === '\\' && i + 1 < text.length) {
      const next = text[i + 1];
      const end = next === '(' || next === '[' ? closeMath[next](i + 2) : -1;
      if (end > 0) {
        math(i, end + 2);
        i = end + 2;
      } else {
        if (next === '\n') put(make('br'));
        else plain += /[!-/:-@[-`{-~]/.test(next) ? next : c + next;
        i += 2;
      }
    } else if (c === '$' && text[i + 1] === '$' && closeMath.$(i + 2) > 0) {
      const end = closeMath.$(i + 2) + 2;
      math(i, end);
      i = end;
    } else if (c === '`') {
      let after = i;
      while (text[after] === '`') ++after;
      const end = runEnd(after - i, after);
      if (end < 0) {
        plain += text.slice(i, after);
        i = after;
      } else {
        const code = text.slice(after, end).replaceAll('\n', ' ');
        const padded = code.startsWith(' ') && code.endsWith(' ') && code.trim() !== '';
        put(make('code', {}, padded ? code.slice(1, -1) : code));
        i = end + after - i;
      }
    } else if (c === '*' || c === '_' || (c === '~' && text[i + 1] === '~')) {
      i = emphasis(i);
    } else if (c === '[' || (c === '!' && text[i + 1] === '[')) {
      i = reference(i, c === '!' ? i + 2 : i + 1);
    } else if (c === '<') {
      angleUrl.lastIndex = i;
      const found = angleUrl.exec(text);
      const href = found && safeUrl(found[1]);
      if (href) put(link(href, depth));
      else plain += c;
      i += href ? found[0].length : 1;
    } else if (c === 'h' && (i === 0 || !/\w/.test(text[i - 1]))) {
      bareUrl.lastIndex = i;
      const found = bareUrl.exec(text)?.[0].replace(/[.,;:!?*_~)\]]{1,8}$/, '');
      const href = found && depth === 0 && safeUrl(found);
      if (href) {
        put(make('a', { href, target: '_blank', rel: 'noopener noreferrer nofollow' }, found));
        i += found.length;
      } else {
        plain += c;
        ++i;
      }
    } else if (c === '\n') {
      plain = plain.trimEnd();
      put(make('br'));
      ++i;
    } else {
      plain += c;
      ++i;
    }
  }
  while (open.length > 1) giveUp();
  put();
  return parent;

  function emphasis(i) {
    const c = text[i];
    let end = i;
    while (text[end] === c) ++end;
    const before = text[i - 1] ?? ' ',
      after = text[end] ?? ' ';
    const opens = !/\s/.test(after) && (c !== '_' || !/\w/.test(before));
    const closes = !/\s/.test(before) && (c !== '_' || !/\w/.test(after));
    while (i < end) {
      let mark = c === '~' || end - i >= 2 ? c + c : c;
      if (c === '~' && end - i < 2) {
        plain += c;
        return end;
      }
      let at = closes ? open.findLastIndex((one) => one.mark === mark) : -1;
      if (at < 0 && closes && mark.length === 2 && c !== '~' && open.findLastIndex((one) => one.mark === c) > 0) {
        mark = c;
        at = open.findLastIndex((one) => one.mark === c);
      }
      if (at > 0) {
        while (open.length - 1 > at) giveUp();
        put();
        open.pop();
      } else if (opens && open.length < maxOpen && end - i <= 3) {
        const node = make(elements[mark]);
        put(node);
        open.push({ node, mark });
      } else {
        plain += text.slice(i, end);
        return end;
      }
      i += mark.length;
    }
    return end;
  }

  /** [label](target) with a target that is an address; anything else is text. Pictures are not fetched, but linked. */
  function reference(i, from) {
    const close = closeBracket(from);
    const end = close > 0 && text[close + 1] === '(' ? closeRound(close + 2) : -1;
    if (end > 0 && depth < 2) {
      let to = end;
      if (text.slice(close + 2, end).includes('(') && text[end + 1] === ')') ++to;
      const target = text
        .slice(close + 2, to)
        .trim()
        .split(/\s/)[0]
        .replace(/^<|>$/g, '');
      const href = safeUrl(target);
      if (href) {
        put(link(href, depth, text.slice(from, close) || target));
        return to + 1;
      }
    }
    plain += text.slice(i, from);
    return from;
  }
}
