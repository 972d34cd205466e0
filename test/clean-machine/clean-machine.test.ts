import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CleanMachine, type Ended, type Service } from './clean-machine.ts';
import { namedCommands, plan, type SmallRun } from './commands.ts';
import { always, fetched, installed } from './programs.ts';

/**
 * Runs each command that README, docs/ and package.json give to a reader, on a machine that has only a minimal Debian with
 * npm and what `npm run setup` installs. Fails on a program that is missing there, on any other failure of a command, and
 * on a command that commands.ts has no row for.
 */
const repository = process.cwd();
/** The deadline of the whole. A command that remains then fails at once. */
const wholeMs = 30 * 60_000;
const setupMs = 20 * 60_000;
const began = performance.now();

/** The messages of a shell, Node and env about a missing program, also where its caller continued without it; and a crash. */
const missing = /^.*(?:command not found|spawn \S+ ENOENT|: not found$|No such file or directory: '?\/usr|^Node\.js v\d).*$/m;

const { runs, notRun } = plan(namedCommands(repository));
const alone = runs.filter(({ run }) => !run.site && run.script !== siteScript());
const withSite = runs.filter(({ run }) => run.site);

let machine: CleanMachine;
/** Why no other command is worth running. */
let broken: string | null = 'setup has not run';

function siteScript(): string {
  return runs.find(({ run }) => run.until !== undefined && / npm start$/.test(run.script))?.run.script ?? '';
}

const name = ({ run, commands }: (typeof runs)[number]): string =>
  commands.length === 1 && commands[0] === run.script
    ? short(run.script)
    : `${commands.map(short).join(', ')} → ${short(run.script)}`;
const short = (script: string): string => (script.includes('\n') ? `${script.split('\n')[0]} …` : script);

/** The end of a failed command's output, and the file with the rest. */
const summaryOf = (ended: Ended): string => `${ended.output.slice(-3000)}\nall of it: ${ended.log}`;

function expectFine(run: SmallRun, ended: Ended, codes: readonly (number | null)[] = [0]): void {
  const found = missing.exec(ended.output);
  expect(found === null ? '' : `${found[0].trim()}; all of it: ${ended.log}`, run.script).toBe('');
  if (!codes.includes(ended.exitCode))
    expect.fail(`${run.script}: ${ended.exitCode ?? 'killed at its deadline'}: ${summaryOf(ended)}`);
  if (run.prints !== undefined && !run.prints.test(ended.output))
    expect.fail(`${run.script} did not print ${run.prints}: ${summaryOf(ended)}`);
}

const deadlineOf = (run: SmallRun): number => {
  const leftMs = wholeMs - (performance.now() - began);
  if (leftMs < 5000) expect.fail(`no time is left of the ${wholeMs / 60_000} minutes of the whole check`);
  return Math.min(run.minutes * 60_000, leftMs);
};

/** Ended by SIGINT: in order, or as a program that doesn't handle it. */
const interrupted = [0, 130];

async function runSmall(run: SmallRun, signal: AbortSignal): Promise<void> {
  if (broken !== null) expect.fail(broken);
  const options = { deadlineMs: deadlineOf(run), signal };
  if (run.until === undefined) return expectFine(run, await machine.run(run.script, options), run.beyondLimit ? [0, 1] : [0]);
  const running = await machine.serve(run.script, run.until, options);
  if (run.service) expectFine(run, await running.stop(), interrupted);
  else expectFine(run, await running.kill(), [null, 0]);
}

beforeAll(async () => {
  console.log(notRun.map(({ command, why }) => `not run: ${short(command)}: ${why}`).join('\n'));
  machine = await CleanMachine.start(repository, AbortSignal.timeout(setupMs));
});
afterAll(() => machine?.close());

test('npm run setup installs everything on a machine that has npm', async ({ signal }) => {
  const run = { script: 'npm run setup', minutes: 20, prints: /^setup: ready/m };
  expectFine(run, await machine.run(run.script, { deadlineMs: setupMs, signal }));
  broken = null;
});

test('each program that Berth starts exists afterwards', async ({ signal }) => {
  const programs = [...Object.values(installed), ...Object.values(always), fetched].flat();
  const script = `source infra/env.sh; for name in ${programs.join(' ')}; do command -v "$name" > /dev/null || echo "missing: $name"; done`;
  const { output } = await machine.run(script, { deadlineMs: 60_000, signal });
  expect(output).toBe('');
});

describe('a command of README, docs/ or package.json', () => {
  for (const one of alone) test(name(one), ({ signal }) => runSmall(one.run, signal));
});

describe('while the site of `npm start` runs', () => {
  let site: Service | null = null;

  test('npm start', async ({ signal }) => {
    if (broken !== null) expect.fail(broken);
    const run = runs.find((one) => one.run.script === siteScript())!.run;
    site = await machine.serve(run.script, run.until!, { deadlineMs: deadlineOf(run), signal });
  });

  for (const { run, ...one } of withSite)
    test(name({ run, ...one }), async ({ signal }) => {
      if (site === null) expect.fail('npm start failed');
      // As README says: the port is in its READY line.
      const api = /"api":"([^"]+)"/.exec(site.output)![1]!;
      await runSmall({ ...run, script: run.script.replace('http://127.0.0.1:8080', api) }, signal);
    });

  test('npm start ends in order when it is interrupted', async () => {
    if (site === null) expect.fail('npm start failed');
    expectFine({ script: 'npm start', minutes: 1 }, await site.stop(), interrupted);
  });
});
