import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** A command that a document gives to its reader. */
export interface Named {
  /** File and line. */
  where: string;
  /** On one line, except a script whose lines belong together. */
  command: string;
}

/** The first words of commands in a sentence; any other word there is a name, or a program that Berth runs. */
const inlineHeads = /^(?:[A-Z_]+=\S+ )*(?:(?:npm|npx|node|berth) |infra\/(?:run|setup|guest\/build)\b)/;

/** Every command in a document: each in a fence marked `sh`, and those in the text's code spans. */
export function commandsIn(text: string, file: string): Named[] {
  const found: Named[] = [];
  const lineOf = (index: number): string => `${file}:${text.slice(0, index).split('\n').length}`;
  const fence = /^```(\w*)\n([\s\S]*?)^```$/gm;
  for (const match of text.matchAll(fence)) {
    if (match[1] !== 'sh') continue;
    const from = match.index + match[0].indexOf('\n') + 1;
    for (const { command, at } of fenced(match[2]!)) found.push({ where: lineOf(from + at), command });
  }
  const prose = text.replace(fence, (all) => all.replace(/[^\n]/g, ' '));
  for (const match of prose.matchAll(/`([^`]+)`/g)) {
    const command = match[1]!.replace(/\s+/g, ' ').trim();
    if (inlineHeads.test(command)) found.push({ where: lineOf(match.index), command });
  }
  return found;
}

/** A fence that sets variables or defines functions for its later lines is one script; any other is a list of commands. */
function fenced(body: string): { command: string; at: number }[] {
  if (/^(?:[A-Z_]+=(?:\S*$|\$\()|\w+\(\) \{)/m.test(body)) return [{ command: body.trim(), at: 0 }];
  const found: { command: string; at: number }[] = [];
  let at = 0;
  for (const line of body.replace(/\\\n/g, '  ').split('\n')) {
    const command = line
      .replace(/(^|\s)#.*$/, '')
      .replace(/\s+/g, ' ')
      .trim();
    if (command !== '') found.push({ command, at });
    at += line.length + 1;
  }
  return found;
}

/** Of README.md, docs/ and the scripts of package.json. */
export function namedCommands(repository: string): Named[] {
  const documents = readdirSync(join(repository, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => join('docs', name));
  const inDocuments = ['README.md', ...documents.toSorted()].flatMap((file) =>
    commandsIn(readFileSync(join(repository, file), 'utf8'), file),
  );
  const { scripts } = JSON.parse(readFileSync(join(repository, 'package.json'), 'utf8')) as { scripts: Record<string, string> };
  const inPackage = Object.keys(scripts).map((name) => ({
    where: 'package.json',
    command: ['start', 'test'].includes(name) ? `npm ${name}` : `npm run ${name}`,
  }));
  return [...inPackage, ...inDocuments];
}

/** How a command is run, at its smallest, on a clean machine. */
export interface SmallRun {
  /** For bash, in the checkout. */
  script: string;
  minutes: number;
  /** What must be in its output besides exit code 0. */
  prints?: RegExp;
  /** Its figure may be beyond the limit that the benchmark has for itself: then it ends with exit code 1. */
  beyondLimit?: true;
  /** Runs until it has printed this. */
  until?: RegExp;
  /** It then gets SIGINT, as from a terminal, and has to end by that; without this it is killed. */
  service?: true;
  /** Needs the site that `npm start` runs. */
  site?: boolean;
}

/** The treatment of the commands that match: how each is run, or why it is not. */
export type Row = { matches: RegExp } & ({ run: SmallRun | ((match: RegExpExecArray) => SmallRun) } | { notRun: string });

const fine = /^\d+ passed, 0 failed$/m;
const figure = /^\{"name":/m;
/** What a benchmark says at the end of a round: `run 0: …`, `warm 0: …`, `128 run 0: …`, `alone 900 ms, …`, `10 warm VMs: …`. */
const roundEnded = /^(?:\w+ )?(?:run|warm|cold) \d+: |^alone \d+ ms|^\d+ (?:warm|cold) VMs: /m;

const vitest = (rest: string, minutes: number, environment = ''): SmallRun => ({
  script: `${environment}npm run vitest -- run ${rest}`,
  minutes,
  prints: /Tests +.*\d+ passed/,
});
const bench = (rest: string, minutes: number): SmallRun => ({ script: `npm run bench -- ${rest}`, minutes, prints: figure });
const begin = (rest: string): SmallRun => ({ script: `npm run bench -- ${rest}`, minutes: 6, until: roundEnded });
const torture = (rest: string): SmallRun => ({ script: `npm run torture -- ${rest} --runs 1 --seed 1`, minutes: 5 });
const fewProperties = 'BERTH_PROPERTY_RUNS=20 ';

/** `berth vms|tasks list|show …` is each of these with each of those, and what follows is arguments. */
function help(match: RegExpExecArray): SmallRun {
  const isWord = (word: string): boolean => /^[a-z]+(-[a-z]+)*(\|[a-z]+(-[a-z]+)*)*$/.test(word);
  const [groups = '', actions = ''] = match[1]!.split(' ').filter(isWord);
  const each = groups
    .split('|')
    .flatMap((group) => actions.split('|').map((action) => `bin/berth ${`${group} ${action}`.trim()} --help`));
  return { script: `set -e; ${each.join('; ')}`, minutes: 1, prints: /^Usage: berth /m };
}

const realSite = 'needs a real site: its machines, its systemd units, its files in /etc/berth';

/**
 * Each command of README, docs/ and package.json, by the first row that matches it. A command without a row fails the test,
 * and so does a row that no command matches. Where a row runs less than the command, it starts the same programs: a program
 * that the clean machine lacks shows at once, and other tests cover the effect of the command.
 */
export const rows: readonly Row[] = [
  { matches: /^(?:npm run |infra\/)setup$/, run: { script: 'npm run setup', minutes: 1, prints: /^setup: ready/m } },
  { matches: /^npm run demo$/, run: { script: 'npm run demo', minutes: 5, prints: /^\{"ok":true/m } },
  { matches: /^npm run check$/, run: { script: 'npm run check', minutes: 8, prints: /tests passed, 0 failed/ } },
  { matches: /^npm run docs$/, run: { script: 'npm run docs && git diff --exit-code docs', minutes: 1 } },
  { matches: /^npm run format$/, run: { script: 'npm run format', minutes: 2, prints: /Checked \d+ files/ } },
  {
    matches: /^npm run simulate -- balance\b/,
    run: {
      script: 'npm run simulate -- balance --hosts 8 --hours 2 --seed 1 && npm run simulate -- balance --hosts 20 --decision',
      minutes: 2,
      prints: /decision_cpu_ms/,
    },
  },
  {
    matches: /^npm run simulate -- cells\b/,
    run: {
      script: 'npm run simulate -- cells --generate scale_par_n100_l1000 --cells 1,2',
      minutes: 2,
      prints: /cpu_s_of_a_cell/,
    },
  },
  {
    matches: /^npm run simulate\b/,
    run: {
      script:
        'npm run simulate -- --trace test/traces/acc_load60.json.gz --config VM_suspend_ov10 --plot /tmp/out.svg && cat /tmp/out.svg',
      minutes: 2,
      prints: /<svg/,
    },
  },
  { matches: /^npm test$/, run: { script: 'npm test replay', minutes: 5, prints: fine } },
  {
    matches: /^npm (?:run test:full|test)(?: NAME…)?$/,
    notRun: 'hours, or more files, of the same runner as npm test, which is run',
  },
  { matches: /^npm test (?:host|acceptance|mutations|timed sagas)$/, notRun: 'many minutes of the same runner with other files' },

  // Single files of the tests.
  { matches: /^npm run vitest$/, run: vitest('test/scheduler/timeline.test.ts', 2) },
  { matches: /vitest\b.* run test\/scheduler$/, run: vitest('test/scheduler/timeline.test.ts', 2) },
  {
    matches: /vitest\b.* run --project unit test\/scheduler\/invariants\.test\.ts$/,
    run: vitest('--project unit test/scheduler/invariants.test.ts', 2, fewProperties),
  },
  {
    matches: /vitest\b.* run --project unit (test\/scheduler\/drain-plan\.test\.ts.*)$/,
    run: (match) => vitest(`--project unit ${match[1]}`, 3, fewProperties),
  },
  {
    matches: /vitest\b.* run --project ledger (test\/ledger\/vacancies\.test\.ts)$/,
    run: (match) => vitest(`--project ledger ${match[1]}`, 3),
  },
  {
    matches: /vitest\b.* run --project contract (test\/contract\/moves\.test\.ts)$/,
    run: (match) => vitest(`--project contract ${match[1]}`, 3),
  },
  {
    matches: /vitest\b.* run --project sagas (test\/sagas\/killed-control\.test\.ts)$/,
    run: (match) => vitest(`--project sagas ${match[1]} -t 'a drain whose control worker is killed'`, 4),
  },
  {
    matches: /vitest\b.* run --project sagas (test\/sagas\/migration\.test\.ts)$/,
    run: (match) => vitest(`--project sagas ${match[1]} -t 'a VM that has lost both copies'`, 4),
  },
  {
    matches: /vitest\b.* run --project site (test\/site\/migration\.test\.ts) .*$/,
    run: (match) => vitest(`--project site ${match[1]} -t 'a VM moves while its command runs'`, 5),
  },
  {
    matches: /vitest\b.* run --project site test\/site\/drain\.test\.ts$/,
    notRun: 'minutes of the same project as test/site/migration.test.ts, which is run',
  },

  // Benchmarks: to the end where that is short, else to the end of the first round.
  { matches: /^npm run bench -- migrate-cold$/, run: bench('--runs 1 migrate-cold', 5) },
  { matches: /^npm run bench -- task( --runs \d+)?$/, run: begin('--runs 3 task') },
  { matches: /^npm run bench -- create( --runs \d+)?$/, run: begin('--runs 3 create') },
  { matches: /^npm run bench -- templates$/, run: begin('--runs 3 templates') },
  { matches: /^npm run bench -- rate( --runs \d+)?$/, run: begin('--runs 3 rate') },
  { matches: /^npm run bench -- (?:--runs \d+ )?migrate$/, run: begin('--runs 3 --modes 128 migrate') },
  { matches: /^npm run bench -- edge( --runs \d+)?$/, run: bench('--runs 1 edge', 3) },
  { matches: /^npm run bench -- migrate-cpu$/, run: begin('--runs 1 migrate-cpu') },
  { matches: /^npm run bench -- scale --modes /, run: bench('--runs 1 --modes 10x50 scale', 5) },
  // The limit is of five minutes on a machine without other work; of ten seconds the two slowest reads decide.
  { matches: /^npm run bench -- crowd( --modes \d+)?$/, run: { ...bench('--modes 10 crowd', 5), beyondLimit: true } },
  { matches: /^npm run bench -- exec$/, run: begin('--runs 3 exec') },
  { matches: /^npm run bench -- webhooks$/, run: bench('webhooks', 6) },
  { matches: /^npm run bench -- settlements$/, run: begin('--runs 3 settlements') },
  { matches: /^npm run bench -- books( --runs \d+)?$/, run: bench('--runs 3 books', 4) },
  { matches: /^npm run bench -- leases$/, run: bench('leases', 4) },
  {
    matches: /^npm run bench -- drain --modes/,
    notRun: 'measures for many minutes; the same programs as migrate, which is run, and as the torture of drains',
  },
  { matches: /^npm run bench -- reservations$/, notRun: 'one trial is five minutes; the same programs as task' },
  { matches: /^npm run bench$/, run: { script: 'npm run bench -- --help', minutes: 1, prints: /^usage: npm run bench/m } },

  // Tortures.
  { matches: /^npm run torture -- drain\b/, run: torture('drain --case none') },
  { matches: /^npm run torture -- migrate\b/, run: torture("migrate --case 'kill virsh'") },
  { matches: /^npm run torture -- soak\b(?!-)/, run: torture('soak') },
  { matches: /^npm run torture -- soak-site\b/, run: torture('soak-site') },
  { matches: /^npm run torture -- emulation\b/, run: torture('emulation') },
  { matches: /^npm run torture$/, run: { script: 'npm run torture -- --help', minutes: 1, prints: /^usage: npm run torture/m } },
  {
    matches: /^npm run fuzz\b/,
    run: { script: 'npm run fuzz -- all --minutes 0.05 --seed 1', minutes: 2, prints: /"target":"range"/ },
  },

  // The local site, and the commands that are run while it runs.
  {
    matches: /^BERTH_GUEST_PROCESSORS=0\.5 npm start$/,
    run: { script: 'BERTH_HOSTS=1 BERTH_GUEST_PROCESSORS=0.5 npm start', minutes: 4, until: /^READY \{/m, service: true },
  },
  {
    matches: /^(?:BERTH_HOSTS=2 BERTH_HOME=\/tmp\/site )?npm start$/,
    run: { script: 'BERTH_HOSTS=2 npm start', minutes: 4, until: /^READY \{/m, service: true },
  },
  {
    matches: /^export PATH=[\s\S]*^cat results\/out\/count$/m,
    run: (match) => ({ script: `set -e\n${match.input}`, minutes: 3, prints: /^\d{3,}$/m, site: true }),
  },
  {
    matches: /^call\(\) \{[\s\S]*\/v1\/tasks\/\$TASK"$/,
    run: (match) => ({
      // README's script before it has exported these.
      script: `set -e\nexport BERTH_API=http://127.0.0.1:8080 BERTH_KEY_FILE=.berth/keys/client\n${match.input}`,
      minutes: 3,
      prints: /"name": ?"count"/,
      site: true,
    }),
  },
  {
    matches: /on-host\.ts host1 virsh list --all$/,
    run: (match) => ({ script: match.input, minutes: 1, prints: /Id +Name +State/, site: true }),
  },
  { matches: /on-host\.ts host1 tail .*<vm>/, notRun: 'needs a VM that runs; the same script as with virsh, which is run' },
  {
    matches: /bare-hosts\.ts$/,
    run: (match) => ({ script: match.input, minutes: 2, until: /ready; the first is/, service: true }),
  },
  {
    matches: /^export PATH=\$PWD\/bin:\$PATH$/,
    run: (match) => ({ script: `${match[0]} && berth --help`, minutes: 1, prints: /^Usage: berth /m }),
  },
  { matches: /^npm run pack:cli$/, run: { script: 'npm run pack:cli', minutes: 2, prints: /berth-cli-.*\.tgz$/m } },
  {
    matches: /^npm install --global \.\/dist\/berth-cli-\*\.tgz$/,
    run: {
      // Intended for another machine, whose Node is new enough: setup's Node stands in for that.
      script:
        'source infra/env.sh; npm run pack:cli && npm install --prefix /tmp/cli --global ./dist/berth-cli-*.tgz && /tmp/cli/bin/berth --help',
      minutes: 2,
      prints: /^Usage: berth /m,
    },
  },
  // A client of HTTP: it starts no program. Its help shows that there is such a command.
  { matches: /^berth (.+)$/, run: help },

  // The commands of operations.md for a site of several machines.
  { matches: /^(?:systemctl|temporal operator|set -a; \. \/etc\/berth)/, notRun: realSite },
  { matches: /infra\/systemd\/site-admin\.ts/, notRun: realSite },
  {
    matches: /^npm ci\b|^npx prisma generate$|^npm install$/,
    notRun: 'of a real site, or of a decision’s reasons; setup runs the same in the checkout',
  },
  {
    matches: /^node prisma\/drift\.ts$/,
    notRun: 'needs a database with all migrations; test/ledger/migrations.test.ts calls it',
  },
];

/**
 * The commands to run, once each, and those that are not run. `unknown` have no row; `unused` are rows without a command.
 */
export function plan(named: readonly Named[]): {
  runs: { run: SmallRun; commands: string[] }[];
  notRun: { command: string; why: string }[];
  unknown: Named[];
  unused: RegExp[];
} {
  const runs = new Map<string, { run: SmallRun; commands: string[] }>();
  const notRun = new Map<string, string>();
  const unknown: Named[] = [];
  const used = new Set<Row>();
  for (const one of named) {
    const row = rows.find(({ matches }) => matches.test(one.command));
    if (row === undefined) unknown.push(one);
    else used.add(row);
    if (row === undefined) continue;
    if ('notRun' in row) notRun.set(one.command, row.notRun);
    else {
      const run = typeof row.run === 'function' ? row.run(row.matches.exec(one.command)!) : row.run;
      const commands = runs.get(run.script)?.commands ?? [];
      runs.set(run.script, { run, commands: [...new Set([...commands, one.command])] });
    }
  }
  return {
    runs: [...runs.values()],
    notRun: [...notRun].map(([command, why]) => ({ command, why })),
    unknown,
    unused: rows.filter((row) => !used.has(row)).map(({ matches }) => matches),
  };
}
