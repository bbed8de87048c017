// The page of ds4-server in a browser: node page.mjs http://127.0.0.1:PORT CHROMIUM FOLDER-FOR-PICTURES
// The server answers from script.json. Each check begins with an empty browser.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const [base, executablePath, pictures] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });

/** A fresh browser profile with the page in it; anything on its console or from another server fails the check. */
async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 820 }, ...options });
  const page = await context.newPage();
  page.problems = [];
  page.on('pageerror', (error) => page.problems.push(`error: ${error.message}`));
  page.on('console', (message) => {
    const expected = /status of (4|5)\d\d/.test(message.text());
    if (['error', 'warning'].includes(message.type()) && !expected) page.problems.push(message.text());
  });
  page.on('request', (request) => {
    if (!request.url().startsWith(base) && !request.url().startsWith('blob:'))
      page.problems.push(`asked ${request.url()}`);
  });
  await page.goto(base);
  await page.waitForFunction(() => document.querySelector('#server-state').dataset.state === 'serving');
  return page;
}

async function ask(page, text) {
  await page.fill('#prompt', text);
  await page.keyboard.press('Enter');
}

const done = (page) =>
  page.waitForFunction(() => {
    return document.querySelector('#stop').hidden && document.querySelector('#log li:last-child:not(.user)');
  });
const lastText = (page) => page.locator('.message.assistant').last().locator(':scope > .markdown').innerText();
const count = (page, selector) => page.locator(selector).count();

async function noSideways(page) {
  const [inner, outer] = await page.evaluate(() => {
    const wide = Math.max(
      document.documentElement.scrollWidth,
      document.body.scrollWidth,
      document.querySelector('#scroll').scrollWidth,
    );
    return [wide, window.innerWidth];
  });
  assert.ok(inner <= outer, `${inner} px wide in a window of ${outer}`);
}

async function metric(name) {
  const text = await (await fetch(`${base}/metrics`)).text();
  return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)[1]);
}

const checks = {
  async 'an answer streams, with its thinking folded'() {
    const page = await open();
    await ask(page, 'Give me the tour');
    await done(page);
    assert.match(await lastText(page), /replaces one large/);
    const thoughts = page.locator('.thoughts');
    assert.equal(await thoughts.getAttribute('open'), null);
    await thoughts.locator('summary').click();
    await thoughts.getByText('wants to see everything').waitFor(); // it is drawn when it has opened
    assert.match(await thoughts.innerText(), /Thought for (a moment|\d+ s).*wants to see everything/s);
    assert.equal(await count(page, '.markdown table tbody tr'), 3);
    assert.equal(await count(page, '.markdown ol ul li'), 2);
    assert.equal(await page.locator('.code figcaption span').innerText(), 'python');
    assert.ok((await count(page, '.code .t-word')) > 3);
    assert.equal(await page.locator('.markdown a').first().getAttribute('rel'), 'noopener noreferrer nofollow');
    assert.match(await page.locator('.meta').last().innerText(), /tokens/);
    return page;
  },
  async 'text of the model is never markup'() {
    const page = await open();
    await ask(page, 'inject <b>me</b>');
    await done(page);
    await page.locator('.thoughts summary').click();
    await page.waitForTimeout(200);
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    assert.equal(await count(page, '#log :is(script, img, b, i[onclick], u, iframe, input:not([type=checkbox]))'), 0);
    const links = await page
      .locator('#log a')
      .evaluateAll((all) => all.map((a) => a.protocol + a.getAttributeNames().length));
    assert.ok(links.length >= 1 && links.every((link) => link === 'https:3'), links.join());
    assert.match(await lastText(page), /<script>window\.hacked='script'<\/script>/);
    // What is kept is text as well.
    await page.reload();
    await page.waitForSelector('.message.assistant');
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    return page;
  },
  async 'hostile markdown is drawn in its own time'() {
    const page = await open();
    const slow = await page.evaluate(async () => {
      const { MarkdownView } = await import('/web/markdown.js');
      const long = (piece) => piece.repeat(100000 / piece.length);
      const found = [];
      for (const text of [
        ...[
          '*',
          '_',
          '~',
          '**a',
          '*a_b',
          '[',
          '[a](',
          '![',
          ']',
          '`',
          '` `` ',
          '<',
          '<https://',
          'http://',
          'http://a ',
          '\\\\(',
        ],
        ...[
          '$$',
          '> ',
          '- ',
          '1. ',
          '|',
          '|a|\n',
          '#',
          '\n',
          ' ',
          '\\',
          '* * *',
          '- a\n  - b\n',
          '>>>>',
          '``` ',
          '~~~\n',
        ],
        ...['a|b\n-|-\n', '[a](https://x ', '***a** ', '[[a]](b)', '- [ ] ', '\n\n  x', '<!-- ', '&lt;', '__a__b'],
      ]
        .map(long)
        .concat(
          `\`\`\`js\n${long('/* ')}`,
          `\`\`\`js\n${long('"\\\\')}`,
          `\`\`\`js\n${long('<!--')}`,
          long('> '.repeat(50) + 'x\n'),
        )) {
        const start = performance.now();
        const node = document.createElement('div');
        new MarkdownView(node).update(text);
        const time = performance.now() - start;
        if (time > 1500) found.push(`${JSON.stringify(text.slice(0, 20))}: ${Math.round(time)} ms`);
      }
      return found;
    });
    assert.deepEqual(slow, []);
    return page;
  },
  async 'the policy of the page forbids what a hole would need'() {
    const page = await open();
    const outcome = await page.evaluate(async () => {
      await new Promise((go) => setTimeout(go)); // what the debugger runs itself is above the policy
      const tried = {};
      for (const [name, attempt] of Object.entries({
        markup: () => {
          document.createElement('div').innerHTML = '<b>x</b>';
        },
        evaluation: () => Function('return 1')(),
      })) {
        try {
          attempt();
          tried[name] = 'allowed';
        } catch {
          tried[name] = 'refused';
        }
      }
      return tried;
    });
    assert.deepEqual(outcome, { markup: 'refused', evaluation: 'refused' });
    page.problems.length = 0;
    return page;
  },
  async 'stop ends the work on the server, and keeps what came'() {
    const page = await open();
    const before = await metric('ds4_requests_running');
    await ask(page, 'slow please');
    await page.waitForFunction(() => document.querySelector('.assistant')?.innerText.includes('two'));
    assert.equal(await metric('ds4_requests_running'), before + 1);
    await page.keyboard.press('Escape');
    await done(page);
    const kept = await lastText(page);
    assert.match(kept, /^one two/);
    assert.doesNotMatch(kept, /twenty/);
    assert.match(await page.locator('.meta').last().innerText(), /stopped/);
    for (let tries = 0; (await metric('ds4_requests_running')) > before; ++tries) {
      assert.ok(tries < 30, 'the server goes on');
      await page.waitForTimeout(100);
    }
    return page;
  },
  async 'editing a message replaces what follows it, and only that is computed'() {
    const page = await open();
    await ask(page, 'The first question, which stays as it is in all of this');
    await done(page);
    await ask(page, 'The second one');
    await done(page);
    await ask(page, 'The third one');
    await done(page);
    assert.equal(await count(page, '.message'), 6);
    const cached = await metric('ds4_cached_tokens_total');
    await page.locator('.message.user').nth(1).hover();
    await page.locator('.message.user').nth(1).getByLabel('Edit and send again').click();
    await page.locator('.edit textarea').fill('Another second one');
    await page.locator('.edit button[type=submit]').click();
    await done(page);
    assert.equal(await count(page, '.message'), 4);
    assert.equal(await page.locator('.message.user .bubble').nth(1).innerText(), 'Another second one');
    assert.ok((await metric('ds4_cached_tokens_total')) - cached > 10);
    return page;
  },
  async 'conversations outlive a reload, and can be renamed, exported and deleted'() {
    const page = await open();
    await ask(page, 'First conversation');
    await done(page);
    await page.keyboard.press('Alt+KeyN');
    await ask(page, 'Second conversation');
    await done(page);
    await page.reload();
    await page.waitForSelector('.message.assistant');
    assert.equal(await count(page, '#sessions li'), 2);
    assert.equal(await page.locator('.bubble').innerText(), 'Second conversation');
    await page.getByRole('button', { name: 'First conversation', exact: true }).click();
    assert.equal(await page.locator('.bubble').innerText(), 'First conversation');
    await page.locator('#sessions li', { hasText: 'First' }).hover();
    await page.getByLabel('Rename First conversation').click();
    await page.keyboard.type('A new name');
    await page.keyboard.press('Enter');
    assert.equal(await page.locator('#title').innerText(), 'A new name');
    await page.locator('#sessions li', { hasText: 'A new name' }).hover();
    await page.getByLabel('Export A new name').click();
    const [file] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: 'Markdown' }).click(),
    ]);
    assert.equal(file.suggestedFilename(), 'A-new-name.md');
    await page.locator('#sessions li', { hasText: 'A new name' }).hover();
    await page.getByLabel('Delete A new name').click();
    await page.getByRole('button', { name: 'Delete', exact: true }).click();
    await page.reload();
    await page.waitForSelector('.message.assistant');
    assert.equal(await count(page, '#sessions li'), 1);
    return page;
  },
  async 'a page that is closed in the middle keeps the half answer'() {
    const page = await open();
    await ask(page, 'slow please');
    await page.waitForFunction(() => document.querySelector('.assistant')?.innerText.includes('three'));
    await page.reload();
    await page.waitForSelector('.message.assistant');
    assert.match(await lastText(page), /^one two three/);
    assert.match(await page.locator('.meta').last().innerText(), /stopped/);
    assert.equal(await page.locator('#stop').isHidden(), true);
    return page;
  },
  async 'a tool call is shown, and its result goes back'() {
    const page = await open();
    await page.keyboard.press('Alt+Comma');
    await page.locator('#settings summary').click();
    await page.fill(
      '#settings [name=tools]',
      '[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object"}}}]',
    );
    await page.keyboard.press('Escape');
    await ask(page, 'What is the weather in Paris?');
    await done(page);
    assert.match(await page.locator('.call').innerText(), /get_weather[\s\S]*"city": "Paris"/);
    await page.locator('.result textarea').fill('18 degrees');
    await page.locator('.result button').click();
    await done(page);
    await page.waitForFunction(() => document.querySelectorAll('.assistant').length === 2);
    assert.match(await lastText(page), /18 degrees/);
    assert.equal(await count(page, '.result'), 0);
    return page;
  },
  async 'settings are sent'() {
    const page = await open();
    await page.keyboard.press('Alt+Comma');
    await page.fill('#settings [name=system]', 'Be brief.');
    await page.fill('#settings [name=temperature]', '0.5');
    await page.fill('#settings [name=seed]', '7');
    await page.fill('#settings [name=max_tokens]', '5');
    await page.fill('#settings [name=key]', 'a-key');
    await page.keyboard.press('Escape');
    await page.selectOption('#thinking', 'none');
    const [request] = await Promise.all([page.waitForRequest(/chat\/completions/), ask(page, 'Hello')]);
    const body = request.postDataJSON();
    assert.deepEqual(body.messages[0], { role: 'system', content: 'Be brief.' });
    assert.deepEqual([body.temperature, body.seed, body.max_tokens, body.reasoning_effort], [0.5, 7, 5, 'none']);
    assert.equal((await request.allHeaders()).authorization, 'Bearer a-key');
    await done(page);
    assert.match(await page.locator('.meta').last().innerText(), /cut at the limit/);
    await page.keyboard.press('Alt+Comma');
    await page.locator('#settings summary').click();
    await page.fill('#settings [name=tools]', 'not json');
    await page.keyboard.press('Escape');
    assert.equal(await page.locator('#settings').isVisible(), true);
    assert.notEqual(await page.locator('#settings-problem').innerText(), '');
    return page;
  },
  async 'an error is said, and can be tried again'() {
    const page = await open();
    await ask(page, 'this fails');
    await page.waitForSelector('.message .problem:not([hidden])');
    assert.match(await page.locator('.message .problem').innerText(), /token fails/);
    await page.getByRole('button', { name: 'Try again' }).click();
    await page.waitForSelector('.message .problem:not([hidden])');
    assert.equal(await count(page, '.message'), 2);
    return page;
  },
  async 'a missing key is asked for, and used'() {
    const page = await open();
    await page.route('**/v1/chat/completions', (route) => {
      if (route.request().headers().authorization === 'Bearer the-key') return route.continue();
      return route.fulfill({ status: 401, json: { error: { message: 'the API key is missing or wrong' } } });
    });
    await ask(page, 'Hello');
    await page.waitForSelector('#settings[open]');
    assert.match(await page.locator('#settings-problem').innerText(), /API key/);
    await page.fill('#settings [name=key]', 'the-key');
    await page.getByRole('button', { name: 'Done' }).click();
    await page.getByRole('button', { name: 'Try again' }).click();
    await page.waitForFunction(() => /this is the answer/.test(document.querySelector('.assistant').innerText));
    return page;
  },
  async 'two tabs see the same conversations'() {
    const page = await open();
    const other = await page.context().newPage();
    await other.goto(base);
    await ask(page, 'Said in the first tab');
    await done(page);
    await other.waitForFunction(() => document.querySelector('#sessions').innerText.includes('Said in the first tab'));
    await other.getByRole('button', { name: 'Said in the first tab', exact: true }).click();
    await ask(other, 'Said in the second');
    await done(other);
    await page.waitForFunction(() => document.querySelectorAll('.bubble').length === 2);
    return page;
  },
  async 'the status has graphs'() {
    const page = await open();
    await ask(page, 'slow please');
    await page.keyboard.press('Alt+KeyS');
    await page.waitForFunction(
      () =>
        /\d/.test(document.querySelector('.graph .now').textContent) &&
        [...document.querySelectorAll('.graph .line0.line')].every((line) => line.getAttribute('d').includes('L')),
    );
    assert.equal(await count(page, '.graph'), 5);
    await page.waitForFunction(() => /tokens\/s/.test(document.querySelector('#server-state').innerText));
    await page.screenshot({ path: `${pictures}/status.png` });
    await page.click('#stop');
    await done(page);
    return page;
  },
  async 'nothing needs a mouse, and everything has a name'() {
    const page = await open();
    await ask(page, 'Give me the tour');
    await done(page);
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll('button, input, textarea, select, a')]
        .filter((node) => {
          const label =
            node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.[0]?.textContent.trim();
          return !label;
        })
        .map((node) => node.outerHTML),
    );
    assert.deepEqual(nameless, []);
    await page.keyboard.press('?'); // typed, not taken: the box has the focus
    assert.equal(await page.locator('#keys').isVisible(), false);
    await page.locator('#scroll').focus();
    await page.keyboard.press('?');
    assert.equal(await page.locator('#keys').isVisible(), true);
    await page.keyboard.press('Escape');
    await page.keyboard.press('/');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'prompt');
    await page.fill('#prompt', '');
    await page.keyboard.press('ArrowUp');
    assert.equal(await page.evaluate(() => document.activeElement.value), 'Give me the tour');
    await page.keyboard.press('Escape');
    assert.equal(await count(page, '.edit'), 0);
    return page;
  },
  async 'a phone: no scrolling sideways, and a drawer'() {
    for (const width of [375, 320]) {
      const page = await open({ viewport: { width, height: 720 }, hasTouch: true, isMobile: true });
      await noSideways(page);
      await page.fill('#prompt', 'Give me the tour');
      await page.click('#send');
      await done(page);
      await noSideways(page);
      await page.screenshot({ path: `${pictures}/phone-${width}.png` });
      await page.click('#sidebar-open');
      await page.waitForTimeout(300);
      assert.equal(await page.locator('#new-chat').isVisible(), true);
      await page.screenshot({ path: `${pictures}/phone-drawer-${width}.png` });
      await noSideways(page);
      await page.click('#open-settings');
      await noSideways(page);
      await page.screenshot({ path: `${pictures}/phone-settings-${width}.png` });
      await page.keyboard.press('Escape');
      await page.click('#open-status');
      await noSideways(page);
      assert.deepEqual(page.problems, []);
      await page.context().close();
    }
  },
  async 'pictures for people, light and dark'() {
    for (const colorScheme of ['light', 'dark']) {
      const page = await open({ colorScheme });
      await page.screenshot({ path: `${pictures}/welcome-${colorScheme}.png` });
      for (const text of ['Plan a weekend in the mountains', 'What is a monad?', 'inject this']) {
        await ask(page, text);
        await done(page);
        await page.keyboard.press('Alt+KeyN');
      }
      await ask(page, 'Give me the tour');
      await done(page);
      await page.locator('.thoughts summary').click();
      await page.locator('#scroll').evaluate((node) => {
        node.scrollTop = 0;
      });
      await page.waitForTimeout(200);
      await page.screenshot({ path: `${pictures}/chat-${colorScheme}.png` });
      await page.locator('#scroll').evaluate((node) => {
        node.scrollTop = node.scrollHeight;
      });
      await page.keyboard.press('Alt+KeyS');
      await page.waitForTimeout(1500);
      await page.screenshot({ path: `${pictures}/end-${colorScheme}.png` });
      await page.keyboard.press('Alt+Comma');
      await page.waitForTimeout(200);
      await page.screenshot({ path: `${pictures}/settings-${colorScheme}.png` });
      assert.deepEqual(page.problems, []);
      await page.context().close();
    }
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  if (process.env.ONLY && !name.includes(process.env.ONLY)) continue;
  try {
    const page = await check();
    if (page) {
      assert.deepEqual(page.problems, []);
      await page.context().close();
    }
    console.log(`web: ${name}: ok`);
  } catch (error) {
    failed += 1;
    console.log(`web: ${name}: FAILED\n${error.stack}`);
  }
}
await browser.close();
process.exit(failed > 0 ? 1 : 0);
