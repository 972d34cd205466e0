import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { commandsIn, namedCommands, plan } from './commands.ts';
import { always, elsewhere, fetched, installed, packagesOfSetup, spawnedPrograms } from './programs.ts';

const repository = process.cwd();

test('each command that README, docs/ and package.json name has a row that describes its run on a clean machine', () => {
  const { unknown, unused } = plan(namedCommands(repository));
  expect(unknown.map(({ where, command }) => `${where}: ${command}`)).toEqual([]);
  expect(unused).toEqual([]);
});

test('a test that is run alone on a clean machine has its name', () => {
  const alone = plan(namedCommands(repository)).runs.flatMap(({ run }) => [
    ...run.script.matchAll(/(test\/\S+\.test\.ts) -t '([^']+)'/g),
  ]);
  expect(alone).not.toEqual([]);
  const missing = alone.filter(([, file, name]) => !readFileSync(file!, 'utf8').includes(name!));
  expect(missing.map(([text]) => text)).toEqual([]);
});

test('a command of several groups is run in each', () => {
  const { runs } = plan([{ where: '', command: 'berth tasks|vms force-end <it>' }]);
  expect(runs.map(({ run }) => run.script)).toEqual(['set -e; bin/berth tasks force-end --help; bin/berth vms force-end --help']);
});

test('commands are found in fences, in sentences and across lines', () => {
  const text = [
    'Run `npm run bench --',
    'task`, not `npm` or `infra/guest/init.c`.',
    '```sh',
    'BERTH_HOSTS=2 npm start   # until interrupted',
    'temporal operator \\',
    '  list',
    '```',
    '```sh',
    'API=http://x',
    'curl "$API"',
    '```',
    '```json',
    '{ "not": "a command" }',
    '```',
  ].join('\n');
  expect(commandsIn(text, 'a.md').map(({ where, command }) => [where, command])).toEqual([
    ['a.md:4', 'BERTH_HOSTS=2 npm start'],
    ['a.md:5', 'temporal operator list'],
    ['a.md:9', 'API=http://x\ncurl "$API"'],
    ['a.md:1', 'npm run bench -- task'],
  ]);
});

test('each program that is started is in a package that setup installs, or that every Debian has', () => {
  const known = new Set([...Object.values({ ...always }), ...Object.values(installed), elsewhere, fetched].flat());
  const spawned = spawnedPrograms(repository);
  // The search itself works.
  expect(['qemu-img', 'virsh', 'rsync', 'setpriv', 'rpcbind', 'iptables-restore'].filter((name) => !spawned.has(name))).toEqual(
    [],
  );
  expect([...spawned].filter(([name]) => !known.has(name)).map(([name, file]) => `${name}, started in ${file}`)).toEqual([]);
  const packages = packagesOfSetup(repository);
  expect(Object.keys(installed).filter((name) => !packages.has(name))).toEqual([]);
});
