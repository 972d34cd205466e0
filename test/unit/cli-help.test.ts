import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { describe, expect, test } from 'vitest';
import { createProgram } from '../../cli/program.ts';

/** The first thing that a command does; reaching it shows that its arguments and options were accepted. */
class Reached extends Error {}

const out = { write: () => true };

/** A program that prints nothing and makes no call. */
function program(): Command {
  const output = { out, err: out, json: false } as never;
  const made = createProgram(() => ({
    connect: () => {
      throw new Reached();
    },
    output: () => output,
  }));
  made.configureOutput({ writeOut: () => undefined, writeErr: () => undefined });
  return made;
}

interface Leaf {
  path: string;
  command: Command;
}

function leavesOf(command: Command, path: string[]): Leaf[] {
  const here = [...path, command.name()];
  if (command.commands.length === 0) return [{ path: here.join(' '), command }];
  return command.commands.flatMap((one) => leavesOf(one, here));
}

function helpOf(command: Command): string {
  let text = '';
  command.configureOutput({
    writeOut: (part) => {
      text += part;
    },
  });
  command.outputHelp();
  return text;
}

/** The words of a command as sh splits them, without expansions. */
function shellWords(line: string): string[] {
  return [...line.matchAll(/(?:'[^']*'|"[^"]*"|[^\s'"])+/g)].map(([word]) => word.replaceAll(/'([^']*)'|"([^"]*)"/g, '$1$2'));
}

/** The calls of berth in lines of sh, including those in a pipeline or a command substitution. */
function callsIn(script: string): string[] {
  return script
    .replaceAll('\\\n', ' ')
    .split('\n')
    .flatMap((line) => line.replace(/\s+# .*$/, '').match(/(?:^|[\s(])berth (?:'[^']*'|"[^"]*"|[^|)'"])*/g) ?? [])
    .map((call) => call.replace(/^[\s(]/, '').trim())
    .filter((call) => call !== 'berth');
}

const accept = async (call: string): Promise<unknown> =>
  program()
    .parseAsync(shellWords(call).slice(1), { from: 'user' })
    .then(
      () => 'it ended without having made a call',
      (error: unknown) => (error instanceof Reached ? 'accepted' : error),
    );

const leaves = leavesOf(program(), []);

describe('the help', () => {
  test('covers the commands', () => {
    expect(leaves.map(({ path }) => path)).toEqual(
      expect.arrayContaining([
        'berth files put',
        'berth vms migrate',
        'berth hosts drain',
        'berth drains cancel',
        'berth events',
      ]),
    );
  });

  test.each(leaves)('of $path shows an example of it, which is accepted unchanged', async ({ path, command }) => {
    const examples = helpOf(command).split(/\nExamples?:\n/)[1];
    const calls = callsIn(examples ?? '');
    expect(calls.filter((call) => call.startsWith(path))).not.toEqual([]);
    for (const call of calls) expect(await accept(call), call).toBe('accepted');
  });

  test.each(leaves)('of $path describes each argument and option', ({ command }) => {
    const silent = [...command.registeredArguments, ...command.options].filter(({ description }) => !description);
    expect(silent.map((one) => ('flags' in one ? one.flags : one.name()))).toEqual([]);
  });

  test('of berth shows examples that are accepted', async () => {
    const calls = callsIn(helpOf(program()).split('\nExamples:\n')[1]?.split('\n\n')[0] ?? '');
    expect(calls.length).toBeGreaterThan(2);
    for (const call of calls) expect(await accept(call), call).toBe('accepted');
  });
});

test('README’s commands are accepted unchanged', async () => {
  const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');
  const calls = [...readme.matchAll(/```sh\n(.*?)```/gs)].flatMap(([, script]) => callsIn(script ?? ''));
  expect(calls.length).toBeGreaterThan(3);
  for (const call of calls) expect(await accept(call), call).toBe('accepted');
});
