import { posix } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isTaskPath, TaskSpec, taskLimits } from '../../../model/task.ts';

const least = { image: 'debian-12', command: ['true'] };
const accepts = (more: object) => TaskSpec.safeParse({ ...least, ...more }).success;

describe('a task', () => {
  it('needs an image and a command; the rest has defaults', () => {
    expect(TaskSpec.parse(least)).toEqual({
      ...least,
      name: 'task',
      onMissingOutput: 'fail',
      keepOutputs: false,
      outputManifest: false,
      env: {},
      inputs: [],
      outputs: [],
      ports: [],
      resources: { vcpus: 1, memoryMiB: 256, diskMiB: 512 },
      nodes: 1,
      lease: { kind: 'bestEffort', durationS: 3600 },
      timeoutS: 600,
    });
    expect(TaskSpec.safeParse({ image: 'debian-12' }).success).toBe(false);
    expect(TaskSpec.safeParse({ command: ['true'] }).success).toBe(false);
  });

  it('fills in part of its resources and its lease', () => {
    expect(TaskSpec.parse({ ...least, resources: { vcpus: 2 }, lease: { durationS: 60 } })).toMatchObject({
      resources: { vcpus: 2, memoryMiB: 256, diskMiB: 512 },
      lease: { kind: 'bestEffort', durationS: 60 },
    });
  });

  it.each([
    ['a field that nobody knows', { colour: 'red' }],
    ['an empty command', { command: [] }],
    ['an empty program', { command: ['', 'x'] }],
    ['a NUL in an argument', { command: ['echo', 'a\u0000b'] }],
    ['a command beyond its length', { command: ['x'.repeat(taskLimits.commandBytes)] }],
    ['too many words', { command: Array(taskLimits.commandWords + 1).fill('x') }],
    ['a NUL in a variable', { env: { A: '\u0000' } }],
    ['a name of a variable with =', { env: { 'A=B': '' } }],
    [
      'too many variables',
      { env: Object.fromEntries(Array.from({ length: taskLimits.envEntries + 1 }, (_, i) => [`V${i}`, ''])) },
    ],
    ['an input from nowhere', { inputs: [{ path: 'a' }] }],
    ['an input from two places', { inputs: [{ path: 'a', file: 'f', url: 'http://x.test/' }] }],
    ['an input from a local file', { inputs: [{ path: 'a', url: 'file:///etc/passwd' }] }],
    ['the same path twice', { inputs: [1, 2].map(() => ({ path: 'a', file: 'f' })) }],
    ['a file that is a folder of another', { inputs: ['a', 'a/b'].map((path) => ({ path, file: 'f' })) }],
    ['an input that climbs out', { inputs: [{ path: '../a', file: 'f' }] }],
    ['an output that climbs out', { outputs: ['out/../../etc/*'] }],
    ['an absolute output', { outputs: ['/etc/passwd'] }],
    ['a digest in capitals', { inputs: [{ path: 'a', file: 'f', sha256: 'AB'.repeat(32) }] }],
    ['no processor', { resources: { vcpus: 0 } }],
    ['half a processor', { resources: { vcpus: 0.5 } }],
    ['no node', { nodes: 0 }],
    ['too many nodes', { nodes: taskLimits.nodes + 1 }],
    ['no time', { timeoutS: 0 }],
    ['a lease of no kind', { lease: { kind: 'forever' } }],
    ['a name that is a path', { name: '../x' }],
  ])('is refused with %s', (_, more) => {
    expect(accepts(more)).toBe(false);
  });

  it('may have folders and patterns that only resemble forbidden ones', () => {
    expect(
      accepts({ inputs: ['a', 'ab/c', 'b/a'].map((path) => ({ path, file: 'f' })), outputs: ['out/**/*.txt', '..x', 'a..b'] }),
    ).toBe(true);
  });
});

describe('a path of a task', () => {
  it('remains inside /home/task, whatever it is', () => {
    const part = fc.oneof(fc.constantFrom('..', '.', '', '...', 'a', '~', '-'), fc.string({ maxLength: 5 }));
    fc.assert(
      fc.property(fc.array(part, { maxLength: 6 }), (pieces) => {
        const path = pieces.join('/');
        if (!isTaskPath(path)) return;
        const whole = posix.resolve('/home/task', path);
        expect(whole).toBe(`/home/task/${path}`);
      }),
      { numRuns: 2000 },
    );
  });

  it('is bounded, in bytes', () => {
    expect(isTaskPath(Array(128).fill('é').join('/'))).toBe(true);
    expect(isTaskPath(`${'a/'.repeat(256)}a`)).toBe(false);
    expect(isTaskPath('é'.repeat(127))).toBe(true);
    expect(isTaskPath('é'.repeat(128))).toBe(false);
  });
});
