// Real agents against ds4-server, which answers from a script through its own tokenizer, parser and streams: each reads a
// file, runs a command, and answers. node agents.mjs SERVER-PROGRAM MODEL FOLDER [AGENT...]
// The configuration of each is the file of docs/examples. The last line of each agent says ok or FAILED.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const [program, model, folder, ...only] = process.argv.slice(2);
const examples = resolve(import.meta.dirname ?? '.', process.env.DS4_EXAMPLES ?? '../../docs/examples');
const bin = (name) => join(folder, 'node_modules', '.bin', name);

const parameter = (name, value, string = 'true') =>
  `<｜DSML｜parameter name="${name}" string="${string}">${value}</｜DSML｜parameter>\n`;
const call = (name, parameters) =>
  `\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="${name}">\n${parameters}</｜DSML｜invoke>\n</｜DSML｜tool_calls>`;

const prompt = 'Please read the file NOTE.txt, then carry out what it says (heron).';
const command = 'echo beaver-$((20+22)) | tee done.txt';

/** How each is started, what its tools are called, and where its configuration goes. */
const agents = {
  claude: {
    read: (home) => call('Read', parameter('file_path', join(home, 'work/NOTE.txt'))),
    run: () => call('Bash', parameter('command', command) + parameter('description', 'Do what the note says')),
    start: (home, url) => [
      join(examples, 'claude-code.sh'),
      ['-p', prompt, '--output-format', 'stream-json', '--verbose', '--allowedTools', 'Bash', 'Read'],
      { DS4_URL: url, DISABLE_TELEMETRY: '1', DISABLE_ERROR_REPORTING: '1', DISABLE_AUTOUPDATER: '1' },
    ],
  },
  codex: {
    read: () => call('exec_command', parameter('cmd', 'cat NOTE.txt')),
    run: () => call('exec_command', parameter('cmd', command)),
    start: (home, url) => {
      mkdirSync(join(home, '.codex'));
      const text = readFileSync(join(examples, 'codex.toml'), 'utf8').replace('http://127.0.0.1:8000', url);
      writeFileSync(join(home, '.codex/config.toml'), text);
      return [
        bin('codex'),
        ['exec', '--skip-git-repo-check', '--dangerously-bypass-approvals-and-sandbox', '--json', prompt],
        { LOCAL_API_KEY: 'local-key' },
      ];
    },
  },
  opencode: {
    read: (home) => call('read', parameter('filePath', join(home, 'work/NOTE.txt'))),
    run: () => call('bash', parameter('command', command) + parameter('description', 'Do what the note says')),
    start: (home, url) => {
      mkdirSync(join(home, '.config/opencode'), { recursive: true });
      const text = readFileSync(join(examples, 'opencode.json'), 'utf8').replace('http://127.0.0.1:8000', url);
      writeFileSync(join(home, '.config/opencode/opencode.json'), text);
      return [
        bin('opencode'),
        ['run', '--format', 'json', prompt],
        {
          OPENCODE_DISABLE_AUTOUPDATE: '1',
          OPENCODE_DISABLE_MODELS_FETCH: '1',
          OPENCODE_DISABLE_LSP_DOWNLOAD: '1',
        },
      ];
    },
  },
  pi: {
    read: () => call('read', parameter('path', 'NOTE.txt')),
    run: () => call('bash', parameter('command', command)),
    start: (home, url) => {
      mkdirSync(join(home, '.pi/agent'), { recursive: true });
      const text = readFileSync(join(examples, 'pi-models.json'), 'utf8').replace('http://127.0.0.1:8000', url);
      writeFileSync(join(home, '.pi/agent/models.json'), text);
      return [
        bin('pi'),
        ['--provider', 'local', '--model', 'deepseek-v4-flash', '-p', '--mode', 'json', prompt],
        { PI_OFFLINE: '1', PI_TELEMETRY: '0', PI_SKIP_VERSION_CHECK: '1' },
      ];
    },
  },
};

function run(command, args, options, limit) {
  return new Promise((done) => {
    const child = spawn(command, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    let out = '';
    child.stdout.on('data', (data) => {
      out += data;
    });
    child.stderr.on('data', (data) => {
      out += data;
    });
    // What it has started goes with it.
    const end = () => {
      try {
        process.kill(-child.pid, 'SIGKILL');
      } catch {
        /* all gone */
      }
    };
    const timer = setTimeout(end, limit);
    child.on('error', (error) => {
      out += error;
    });
    child.on('close', (status) => {
      clearTimeout(timer);
      end();
      done({ status, out });
    });
  });
}

async function check(name) {
  const agent = agents[name];
  const home = join(folder, `home-${name}`),
    work = join(home, 'work'),
    trace = join(home, 'trace.txt');
  rmSync(home, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  writeFileSync(join(work, 'NOTE.txt'), `The otter says: run \`${command}\`.\n`);
  const rules = [
    { when: 'beaver-42', reasoning: 'That worked.', reply: 'The note was read and carried out: kingfisher.' },
    { when: 'The otter says', reasoning: 'Now the command.', reply: `I run it.${agent.run(home)}`, token_ms: 1 },
    { when: '(heron)', reasoning: 'First the file.', reply: `I read it.${agent.read(home)}`, token_ms: 1 },
    { when: '', reply: 'A title' },
  ];
  writeFileSync(join(home, 'script.json'), JSON.stringify({ rules }));
  const server = spawn(
    program,
    ['-m', model, '--script', join(home, 'script.json'), '--port', '0', '-c', '131072', '--trace', trace],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let log = '';
  server.stderr.on('data', (data) => {
    log += data;
  });
  const closed = new Promise((go) => server.on('close', go));
  let port;
  while (!(port = /event=listening.* port=(\d+)/.exec(log)?.[1]) || !log.includes('event=serving')) {
    if (server.exitCode !== null) throw new Error(log);
    await new Promise((go) => setTimeout(go, 50));
  }
  const [command_, args, environment] = agent.start(home, `http://127.0.0.1:${port}`);
  const outcome = await run(
    command_,
    args,
    {
      cwd: work,
      env: {
        PATH: `${join(folder, 'node_modules/.bin')}:${process.env.PATH}`,
        HOME: home,
        TERM: 'dumb',
        LANG: 'C.UTF-8',
        ...environment,
      },
    },
    180000,
  );
  server.kill('SIGTERM');
  await closed;
  writeFileSync(join(home, 'output.txt'), outcome.out);
  writeFileSync(join(home, 'server.log'), log);
  const problems = [];
  if (outcome.status !== 0) problems.push(`exit status ${outcome.status}`);
  if (!outcome.out.includes('kingfisher')) problems.push('the last answer was not shown');
  if (!existsSync(join(work, 'done.txt'))) problems.push('the command was not run');
  // The later turns find what the earlier ones computed.
  const cached = [...log.matchAll(/event=answer .* prompt=(\d+) cached=(\d+)/g)].map(([, all, had]) => had / all);
  if (!(cached.at(-1) > 0.8)) problems.push(`of the last prompt only ${Math.round(100 * cached.at(-1))} % were cached`);
  if (/status=5\d\d|status=400/.test(log)) problems.push('the server refused something');
  console.log(
    `agents: ${name}: ${problems.length ? `FAILED: ${problems.join('; ')} (see ${home})` : `ok, ${cached.length} answers, the last prompt ${Math.round(100 * cached.at(-1))} % from cache`}`,
  );
  return problems.length === 0;
}

let failed = 0;
for (const name of only.length ? only : Object.keys(agents)) {
  try {
    if (!(await check(name))) ++failed;
  } catch (error) {
    ++failed;
    console.log(`agents: ${name}: FAILED\n${error.stack}`);
  }
}
process.exit(failed ? 1 : 0);
