// The texts of the committed golden file. Not in here, because the JavaScript reference reads \s as ECMAScript does:
// U+0085 (no space there) and U+FEFF (a space there).

const words = [
  'hello', 'hello world', ' hello', '  hello', 'Hello, World!', "don't", "I'll we've they're it's", "O'Neill's 'quoted'",
  'CamelCaseIdentifier', 'snake_case_name', 'kebab-case-name', 'SCREAMING_SNAKE', 'x', ' x', 'the', ' the', 'a b c d',
  'internationalization', 'antidisestablishmentarianism', 'supercalifragilisticexpialidocious', 'lowercase.Uppercase',
  'e.g. i.e. etc.', 'Mr. Smith (née Jones) paid $4.50—maybe.', '#include', '@decorator', '/usr/local/lib', '*bold*',
  '"quoted" \'single\' `code`', '...', '…', '--', '---', '—', '–', '!!!', '?!', '(a)', '[b]', '{c}', '<d>', '.net', '-x',
  'a.b', 'a .b', 'a. b', '.a.b', '!a!b', '_a_b', '$a', '+a', '=a', '~a', '^a', '|a', '`a', '%20a', '&amp;', ';a', ':a',
];

const spaces = [
  ' ', '  ', '   ', '\t', '\t\t', '\n', '\n\n', '\r\n', '\r\n\r\n', '\r', ' \n', '\n ', ' \n ', '  \n  ', '\n\t\n', 'a\n',
  'a \n', 'a\n b', 'a  b', 'a   b', 'a\tb', 'a \tb', 'a\t b', 'a\n\n\nb', 'a \n \n b', 'a. \n\n b', '.\n\n', '.\r\n.\n',
  'trailing  ', '  both  ', 'a  1', 'a 1', 'a   12', '1 2  3   4', ' 你', '  你', 'a 你 b', 'a  你  b', '\v\f', 'a\vb\fc',
  '\u00a0', 'a\u00a0b', 'a \u00a0b', '\u2003wide', 'a\u2003\u2003b', '\u3000', '\u3000\u3000段落', 'a\u3000b', '\u2028a\u2029b',
  '\u202fa', '\u1680a', '\u205f b', '\u200ba', 'a\u200bb', '\u200b\u200b', '\u2060a', '\u00ada', ' '.repeat(17), '\n'.repeat(9),
  '\t'.repeat(6) + 'x', ' '.repeat(40) + 'x', '\u0000', 'a\u0000b', '\u0001\u0002', '\u007f', '\u001b[31mred\u001b[0m',
];

const numbers = [
  '1', '12', '123', '1234', '12345', '123456', '1234567', '12345678901234567890', '3.14159', '1,000,000', '1e-5', '0x1F', '1st 2nd 3rd',
  'v1.2.3', '192.168.0.1', '2024-02-29T12:34:56Z', '١٢٣٤٥', '۱۲۳۴', '१२३४', '๑๒๓๔', '１２３４', '一二三', '〇一', '〡〢〣〤', 'Ⅳ Ⅷ ⅻⅼ', '½ ¾ ⅓',
  '①②③④', 'x²+y³', 'H₂O', '10⁻⁹', '㉑㊿', '𝟏𝟐𝟑𝟒', '12３٤5', 'a1b22c333d4444', '1 234 567', '٣٫١٤', '100%', '$9.99', '#42',
];

const scripts = [
  '你好', '你好，世界！', '今天天气很好。', '“引号”‘单引号’', '《红楼梦》（第一回）', '中文English混排123测试', '人工智能、机器学习；深度学习：三者……',
  '㐀㐁', '龥龦龧', '𠀀𠀁', '〜～・ー', '々〆〇', 'こんにちは、世界。', 'カタカナ・テスト', 'ｶﾀｶﾅ', '日本語のテキスト（括弧）です。', 'ゟヿ゠', '゛゜', '\u3097\u3040あ',
  'がぎ か\u3099', '東京タワーは333mです', '안녕하세요 세계', '한국어 문장입니다.', '\u1112\u1161\u11ab', 'Привет, мир!', 'Съешь ещё этих мягких французских булок',
  'Γειά σου Κόσμε', 'שלום עולם', 'שָׁלוֹם', 'مرحبا بالعالم', 'السَّلَامُ', 'नमस्ते दुनिया', 'हिन्दी क्ष', 'สวัสดีชาวโลก', 'ຍິນດີ', 'தமிழ் மொழி', 'বাংলা ভাষা',
  'ქართული ენა', 'հայերեն', 'አማርኛ', 'Tiếng Việt rất khó', 'naïve café résumé', 'cafe\u0301', '\u0301a', ' \u0301', 'a\u0301\u0302\u0303', '\u0301\u0302 \u0303',
  '1\u0301', '!\u0301', '.\u0301a', 'Straße İstanbul ǅ', 'ŁÓDŹ žluťoučký kůň', 'ﬁ ﬂ ligature', 'ªº', 'ʰʷ', 'Ａｂｃ', '｜｜', '▁▁', '，。！？', '！a', '。a', '—a', '“a',
];

const symbols = [
  '😀', '😀😀', ' 😀', 'a😀b', '👩‍👩‍👧‍👦', '👍🏽', '🇩🇪🇫🇷', '1️⃣2️⃣', '❤️', '☃︎', '✅ done ❌', '→ ← ⇒', '∑∫∂√∞', 'α≤β≥γ', '€£¥₹₿', '©®™', '░▒▓█', '┌─┐│└┘', '♠♥♦♣', '𝒜𝓑', '\ue000', 'a\ue000b',
  '\ufffd', '\ufffe', '\u{10ffff}', '\u200d', 'a\u200db', '\u200d\u200d ', '😀\n\n😀', '=== !!! ===\n\n', '/* a */', '// x\n', '<!-- -->', '\\n\\t', '```', '$$x$$', '|---|---|',
];

const added = [
  '<｜User｜>Hi<｜Assistant｜>', '<｜begin▁of▁sentence｜>', 'x <｜User｜> y', '<think>a</think>', '<think>\n\n</think>\n', '<<think>>', '<thin', '<｜User', '<｜User｜', '<｜User｜><｜User｜>', '<|EOT|>',
  '｜DSML｜', '<｜DSML｜tool_calls>', '</｜DSML｜invoke>', '<｜place▁holder▁no▁7｜><｜place▁holder▁no▁79｜><｜place▁holder▁no▁799｜>', '<｜place▁holder▁no▁800｜>', '<dsml:x></dsml:x>', '<tool_result>ok</tool_result>',
  'ends with <｜end▁of▁sentence｜>', 'a<｜title｜>  <｜query｜>\n', '<|place_holder_mm_span_0021|>', '<｜/table>｜',
];

const passages = [
  `The lighthouse keeper counted ships the way other people count sheep: forty-one by dusk, and then—because fog makes
liars of us all—he stopped. "Tomorrow," he said, "we'll begin again."  His dog disagreed.`,
  `#include <vector>
template <typename T>
T sum(const std::vector<T>& values) {
    T total{};
    for (const auto& v : values) total += v;  // no overflow check
    return total;
}
`,
  `def fib(n: int) -> int:
    """Return the n-th Fibonacci number."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a

if __name__ == "__main__":
    print([fib(i) for i in range(10)])
`,
  `fn main() {\n\tlet xs: Vec<u32> = (0..10).filter(|x| x % 2 == 0).collect();\n\tprintln!("{:?}", xs);\n}\n`,
  `{"name":"search","arguments":{"query":"weather in Zürich","limit":10,"flags":[true,false,null,-1.5e-3]}}`,
  `<!DOCTYPE html>\n<html lang="en">\n  <body class="a b">\n    <p>Hi &amp; bye</p>\n  </body>\n</html>\r\n`,
  `SELECT u.id, COUNT(*) AS n FROM users u LEFT JOIN orders o ON o.user_id = u.id WHERE u.age >= 18 GROUP BY 1;`,
  `# Title\n\n- item one\n- item *two*\n  1. nested\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> quote\n\n\`\`\`sh\n$ ls -la | grep "x" > out.txt 2>&1\n\`\`\`\n`,
  `春天来了，公园里的花都开了。孩子们在草地上奔跑，老人们坐在长椅上聊天；“多好的天气啊！”奶奶说。——那是2019年3月21日……`,
  `  却说那人，年方十八，姓王名二；只见他：“呀！好一座高山也。”（下）\n　　【正宫】【端正好】碧云天，黄花地，西风紧，北雁南飞。`,
  `吾輩は猫ではない。名前はもう「タマ」と決まっている。昨日、駅前で１２３円のパンを買った！それだけのことだ…。`,
  `제가 좋아하는 음식은 김치찌개예요. 어제는 3,000원에 커피를 마셨습니다!`,
  `الطقس اليوم جميل، أليس كذلك؟ درجة الحرارة ٢٥°.`,
  `В 1998 году — «всё было иначе», — сказал он. Цена: 1 500 ₽.`,
  `E = mc²; ∀x∈ℝ: x² ≥ 0. Let f(x) = ∫₀^∞ e^{-x²} dx = √π/2 ≈ 0.886.`,
  `https://example.org/path/to/page?query=a%20b&lang=de#frag mailto:someone@example.org 00:1A:2b:3C:4d:5E`,
  `ERROR 2031-01-09 03:14:15,926 [worker-7] o.e.Foo$Bar: java.lang.NullPointerException\n\tat Foo.bar(Foo.java:42)\n\tat Foo.main(Foo.java:7)\n`,
  `aGVsbG8gd29ybGQhIFRoaXMgaXMgYmFzZTY0Lg== 9f86d081884c7d659a2feaa0c55ad015`,
  `diff --git a/x.c b/x.c\n@@ -1,3 +1,4 @@\n-int a;\n+int  a = 1;\r\n \n`,
  'ab'.repeat(60), 'z'.repeat(100), '=' .repeat(80), '. '.repeat(20), '哈'.repeat(30), '\u0301'.repeat(20), '👩‍'.repeat(9),
];

export const cases = [...words, ...spaces, ...numbers, ...scripts, ...symbols, ...added, ...passages];
