// Colours for code: comments, strings, numbers, and words that most languages share. Linear in the text.
import { make } from './dom.js';

const hash = new Set(
  ('python py sh bash zsh shell console yaml yml toml ruby rb r perl ' +
    'make makefile cmake dockerfile ini conf elixir nix powershell').split(' '),
);
const noColours = new Set(['', 'text', 'txt', 'plain', 'output', 'log', 'markdown', 'md']);
const words =
  'abstract and as async await auto begin bool boolean break case catch char class const constexpr continue def ' +
  'default defer del delete do done double elif else elsif end enum except export extends extern false False fi final finally ' +
  'float fn for foreach from func function global go goto if impl implements import in include inline instanceof int ' +
  'interface is lambda let long loop match mod module move mut namespace new nil None nonlocal not null nullptr object of ' +
  'operator or override package pass private protected pub public raise ref require return select self short signed sizeof ' +
  'static string struct super switch template then this throw throws trait true True try type typedef typeof union unless ' +
  'unsafe unsigned until use using var virtual void volatile when where while with yield ' +
  'SELECT FROM WHERE INSERT INTO UPDATE DELETE CREATE TABLE JOIN LEFT RIGHT INNER ON GROUP ORDER BY LIMIT VALUES SET AND OR NOT NULL AS';
const keywords = new Set(words.split(' '));
const strings = '"(?:\\\\.|[^"\\\\\\n])*"?|\'(?:\\\\.|[^\'\\\\\\n])*\'?|`(?:\\\\.|[^`\\\\])*`?';
const slashComment = '\\/\\/[^\\n]*|\\/\\*(?:[^*]|\\*(?!\\/))*(?:\\*\\/)?|<!--(?:[^-]|-(?!->))*(?:-->)?';
const tail = `|(${strings})|(\\b\\d[\\w.]*)|([A-Za-z_]\\w*)`;
const withSlashes = new RegExp(`(${slashComment})${tail}`, 'g');
const withHashes = new RegExp(`(#[^\\n]*)${tail}`, 'g');

/** Appends `text` to `node`, in colours where the language has them. */
export function highlight(node, text, language) {
  if (noColours.has(language) || text.length > 60000) return node.append(text);
  const pattern = hash.has(language) ? withHashes : withSlashes;
  let plain = 0;
  for (const found of text.matchAll(pattern)) {
    const [all, comment, string, digits, word] = found;
    if (word !== undefined && !keywords.has(word)) continue;
    const kind =
      comment !== undefined ? 'comment' : string !== undefined ? 'string' : digits !== undefined ? 'number' : 'word';
    if (found.index > plain) node.append(text.slice(plain, found.index));
    node.append(make('span', { class: `t-${kind}` }, all));
    plain = found.index + all.length;
  }
  node.append(text.slice(plain));
  return node;
}
