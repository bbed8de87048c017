// The added tokens that DeepSeek V4 has beyond the V3 table, ids 128815 to 129279.

const names = [
  '<｜begin▁of▁repo▁name｜>', '<｜end▁of▁repo▁name｜>', '<｜begin▁of▁file▁name｜>', '<｜end▁of▁file▁name｜>',
  '<｜begin▁of▁file｜>', '<｜end▁of▁file｜>', '<think>', '</think>', '<｜place▁holder▁for▁copy｜>',
  '<｜place▁holder▁for▁pointer▁replace｜>', '｜DSML｜', '<｜begin▁sys｜>', '<｜end▁sys｜>', '<｜latest_reminder｜>', '<｜action｜>',
  '<｜query｜>', '<｜authority｜>', '<｜domain｜>', '<｜task｜>', '<｜political｜>', '<｜entity｜>', '<｜title｜>', '<｜safety｜>',
  '<｜answer｜>', '<｜search｜>', '<dsml:', '</dsml:', '<｜search▁begin｜>', '<｜search▁end｜>', '<｜extracted_url｜>',
  '<｜read_url｜>', '<｜end_of_query｜>',
  ...Array.from({length: 415}, (_, i) => `<|place_holder_mm_span_${String(21 + i).padStart(4, '0')}|>`),
  '<｜rl_image_pad｜>', '<｜rl_image_start｜>', '<｜image2｜>', '<｜/table>｜', '<｜table｜>', '<｜/td｜>', '<｜td｜>', '<｜/tr｜>',
  '<｜tr｜>', '<｜/polygon｜>', '<｜polygon｜>', '<｜/point｜>', '<｜point｜>', '<｜/box｜>', '<｜box｜>', '<｜/ref｜>', '<｜ref｜>',
  '<｜image｜>',
];

export const v4Added = names.map((content, i) => ({
  id: 128815 + i, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: false,
}));
