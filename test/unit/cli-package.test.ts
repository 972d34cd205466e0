import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { transform } from 'esbuild';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import packageJson from '../../package.json' with { type: 'json' };

const run = promisify(execFile);
const checkout = fileURLToPath(new URL('../..', import.meta.url));

let folder: string;
let installed: string;
beforeAll(async () => {
  folder = await realpath(await mkdtemp(join(tmpdir(), 'berth-package-')));
  const { stdout } = await run(join(checkout, 'infra/cli-package/build'), ['--pack', join(folder, 'dist')]);
  const tarball = stdout.trim();
  expect(tarball).toBe(join(folder, 'dist', `berth-cli-${packageJson.version}.tgz`));
  // Offline, with an empty cache: a dependency that had to be fetched would fail here.
  const options = ['--offline', '--no-audit', '--no-fund', '--prefix', join(folder, 'prefix'), '--cache', join(folder, 'cache')];
  await run('npm', ['install', '--global', ...options, tarball], { cwd: folder });
  installed = join(folder, 'prefix/bin/berth');
});
afterAll(() => rm(folder, { recursive: true }));

interface Ended {
  code: number;
  out: string;
  err: string;
}

/** Runs the installed command on a given Node, in an environment that has nothing of Berth's. */
async function berth(node: string, args: string[], nodeOptions: string[] = []): Promise<Ended> {
  try {
    const { stdout, stderr } = await run(node, [...nodeOptions, installed, ...args], { cwd: folder, env: { BERTH_KEY: 'k' } });
    return { code: 0, out: stdout, err: stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, out: stdout, err: stderr };
  }
}

/** This run's Node and those that the machine itself has, as far as the package supports them. */
async function findNodes(): Promise<{ version: string; node: string }[]> {
  const found = new Map([[process.version, process.execPath]]);
  for (const directory of new Set([...(process.env.PATH ?? '').split(':'), '/usr/bin', '/usr/local/bin'])) {
    const node = join(directory, 'node');
    const version = await run(node, ['--version']).then(
      ({ stdout }) => stdout.trim(),
      () => null,
    );
    if (version !== null && Number(version.slice(1).split('.')[0]) >= 20) found.set(version, found.get(version) ?? node);
  }
  return [...found].map(([version, node]) => ({ version, node }));
}

describe.each(await findNodes())('the installed package, on Node $version,', ({ node }) => {
  test('prints its version and its help', async () => {
    expect(await berth(node, ['--version'])).toEqual({ code: 0, out: `${packageJson.version}\n`, err: '' });
    expect(await berth(node, ['--help'])).toMatchObject({ code: 0, out: expect.stringContaining('Usage: berth '), err: '' });
  });

  test('refuses an invalid command, in a sentence', async () => {
    expect(await berth(node, ['vms', 'show'])).toEqual({
      code: 2,
      out: '',
      err: "error: missing required argument 'vm'\nAdd --help to see how it is called\n",
    });
    expect(await berth(node, ['files', 'ls'])).toEqual({
      code: 2,
      out: '',
      err: 'berth: Where is the API? Set BERTH_API, or give --api\n',
    });
  });

  test('reports that an API does not answer', async () => {
    const { code, out, err } = await berth(node, [
      '--api',
      'http://127.0.0.1:1',
      'files',
      'rm',
      'file_01kb5n3vpxe8rt7h9d2m4wqzfa',
    ]);
    expect([code, out, err]).toEqual([1, '', 'berth: http://127.0.0.1:1 does not answer: connect ECONNREFUSED 127.0.0.1:1\n']);
  });
});

describe('on a Node that is too old', () => {
  test('it names the version that it needs', async () => {
    const pretend = `data:text/javascript,${encodeURIComponent("Object.defineProperty(process.versions, 'node', { value: '18.20.4' })")}`;
    const { code, out, err } = await berth(process.execPath, ['--help'], ['--import', pretend]);
    expect([code, out, err]).toEqual([2, '', `berth: needs Node 20 or newer; ${process.execPath} is Node 18.20.4\n`]);
  });

  test('its first file can be parsed there: it is ECMAScript 5', async () => {
    const text = await readFile(installed, 'utf8');
    // esbuild refuses what it can not convert to ES5, and converts the rest: a difference from the source shows that.
    await transform(text, { target: 'es5', loader: 'js' });
    expect(text.replaceAll(/\/\/.*/g, '')).not.toMatch(/=>|`|\?\.|\?\?|\*\*|\b(const|let|class|async|await|import|export)\b/);
  });
});

describe('bin/berth', () => {
  test('runs the bundle of its checkout, also through a link, on setup’s Node or else on the PATH’s', async () => {
    const tree = join(folder, 'tree');
    await mkdir(join(tree, 'bin'), { recursive: true });
    await mkdir(join(tree, 'infra'));
    await cp(join(checkout, 'bin/berth'), join(tree, 'bin/berth'));
    await cp(join(checkout, 'infra/env.sh'), join(tree, 'infra/env.sh'));
    const link = join(folder, 'link');
    await symlink(join(tree, 'bin/berth'), link);
    const nodes = join(folder, 'nodes');
    await mkdir(nodes);
    await symlink(process.execPath, join(nodes, 'node'));
    const start = (path: string, cache: string) => run(link, ['--version'], { env: { PATH: path, BERTH_CACHE: cache } });

    const unbuilt = start(`${nodes}:/usr/bin:/bin`, folder);
    await expect(unbuilt).rejects.toMatchObject({ code: 2, stderr: expect.stringContaining('is not built yet; npm start') });
    await cp(join(folder, 'dist'), join(tree, 'dist'), { recursive: true });
    expect(await start(`${nodes}:/usr/bin:/bin`, folder)).toEqual({ stdout: `${packageJson.version}\n`, stderr: '' });

    const version = /^node_version=(.*)$/m.exec(await readFile(join(checkout, 'infra/env.sh'), 'utf8'))?.[1];
    const ofSetup = join(folder, `cache/node/${version}/bin`);
    await mkdir(ofSetup, { recursive: true });
    await writeFile(join(ofSetup, 'node'), '#!/bin/sh\necho of setup\n', { mode: 0o755 });
    expect((await start(`${nodes}:/usr/bin:/bin`, join(folder, 'cache'))).stdout).toBe('of setup\n');
  });
});

test('the package has no dependencies, and names the Node version that it needs', async () => {
  const text = await readFile(join(folder, 'prefix/lib/node_modules/@berth/cli/package.json'), 'utf8');
  const installedJson = JSON.parse(text) as Record<string, unknown>;
  expect(installedJson).toMatchObject({ name: '@berth/cli', version: packageJson.version, engines: { node: '>=20' } });
  expect(installedJson).not.toHaveProperty('dependencies');
});
