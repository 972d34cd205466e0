import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import type { Command } from 'commander';
import { type Connection, call, callJson, list, patiently, UsageError } from './client.ts';
import { upload } from './files.ts';
import { several, whole } from './options.ts';
import { print, printOne, printRows, type Screen, sizeOf } from './show.ts';

interface Image {
  id: string;
  name: string;
  digest: string;
  state: string;
  owner: string | null;
  published: boolean;
  sizeBytes: number;
  virtualMiB: number;
  hosts: string[];
  error: { code: string; message: string } | null;
  createdAt: string;
}

interface BuildOptions {
  recipe?: string;
  base?: string;
  disk?: string;
  suite?: string;
  package: string[];
  file: string[];
  run: string[];
  env: string[];
  sizeMib?: number;
  cloudInit?: boolean;
  memoryMib?: number;
  vcpus?: number;
  timeoutS?: number;
  follow?: boolean;
  wait?: boolean;
}

const lookMs = 500;

const pathOf = (name: string, rest = ''): string => `/v1/images/${encodeURIComponent(name)}${rest}`;

function split(text: string, what: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1) throw new UsageError(`${what} ${JSON.stringify(text)} is not name=value`);
  return [text.slice(0, at), text.slice(at + 1)];
}

/** `@local-file` uploads; everything else names a file that is there. */
async function fileId(connected: Connection, screen: Screen, source: string): Promise<string> {
  return source.startsWith('@') ? (await upload(connected, screen, source.slice(1))).id : source;
}

async function readRecipe(path: string): Promise<object> {
  const text = await readFile(path === '-' ? '/dev/stdin' : path, 'utf8');
  try {
    return JSON.parse(text) as object;
  } catch (error) {
    throw new UsageError(`${path} is not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
}

async function baseOf(connected: Connection, screen: Screen, { base, disk, suite }: BuildOptions): Promise<object | undefined> {
  if ([base, disk, suite].filter((one) => one !== undefined).length > 1)
    throw new UsageError('--base, --disk and --suite exclude each other');
  if (disk !== undefined) return { file: await fileId(connected, screen, disk) };
  if (suite !== undefined) return { suite };
  return base === undefined ? undefined : { image: base };
}

/** Only what was given: the API has the defaults, and the last word on what is valid. */
function given(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

function some<T extends object>(fields: T): T | undefined {
  return Object.keys(fields).length > 0 ? fields : undefined;
}

async function recipeOf(connected: Connection, screen: Screen, name: string, options: BuildOptions): Promise<object> {
  const fromFile = options.recipe === undefined ? {} : await readRecipe(options.recipe);
  const files = [];
  for (const text of options.file) {
    const [path, source] = split(text, '--file');
    files.push({ path, file: await fileId(connected, screen, source) });
  }
  const fields = given({
    name,
    base: await baseOf(connected, screen, options),
    packages: some(options.package),
    files: some(files),
    commands: some(options.run),
    env: some(Object.fromEntries(options.env.map((text) => split(text, '--env')))),
    sizeMiB: options.sizeMib,
    cloudInit: options.cloudInit,
    resources: some(given({ vcpus: options.vcpus, memoryMiB: options.memoryMib })),
    timeoutS: options.timeoutS,
  });
  return { ...fromFile, ...fields };
}

const getImage = (connected: Connection, name: string, digest: string | undefined): Promise<Image> =>
  callJson<Image>(connected, pathOf(name, digest === undefined ? '' : `?${new URLSearchParams({ digest })}`));

async function copyLog(connected: Connection, screen: Screen, name: string, query: Record<string, string>): Promise<void> {
  const answer = await call(connected, pathOf(name, `/log?${new URLSearchParams(query)}`));
  for await (const chunk of answer.body) screen.out.write(chunk);
}

/** Returns when the build is over; the API being away for a while doesn't matter. */
async function built(connected: Connection, { name, digest }: Image): Promise<Image> {
  for (;;) {
    const image = await patiently(() => getImage(connected, name, digest));
    if (image.state !== 'building') return image;
    await pause(lookMs);
  }
}

function printState(screen: Screen, image: Image): void {
  if (screen.json) {
    printOne(screen, image);
    return;
  }
  const why = image.error === null ? '' : `: ${image.error.message} (${image.error.code})`;
  print(screen, `${image.name} ${image.digest} ${image.state}${why}`);
}

export function addImageCommands(program: Command, connect: () => Connection, screen: () => Screen): void {
  const images = program.command('images').description('build images, and see those that are there');

  images
    .command('build')
    .description('build an image from a recipe; one that was built already is there at once')
    .argument('<name>')
    .option('-f, --recipe <path>', 'a recipe as JSON; - for the standard input; other options change it')
    .option('--base <image>', 'build on this image')
    .option('--disk <source>', 'take this disk: @local-file or file id, qcow2 or raw')
    .option('--suite <name>', "install this one of Debian's suites")
    .option('--package <name>', 'may be repeated', several, [])
    .option('--file <path=source>', 'source: @local-file or file id; may be repeated', several, [])
    .option('--run <command>', 'a shell command; may be repeated', several, [])
    .option('--env <name=value>', 'environment of the build; may be repeated', several, [])
    .option('--size-mib <n>', 'size of the disk', whole)
    .option('--cloud-init', 'its VMs are given a NoCloud seed')
    .option('--vcpus <n>', 'of the build VM', whole)
    .option('--memory-mib <n>', 'of the build VM', whole)
    .option('--timeout-s <n>', 'how long the build may take', whole)
    .option('--follow', 'print its log, and wait for the end')
    .option('--wait', 'wait for the end')
    .addHelpText(
      'after',
      `
Examples:
  berth images build encoder --base debian-12 --package ffmpeg --follow
  berth images build tools --base debian-12 --file /usr/local/bin/tool=@tool --run 'chmod 755 /usr/local/bin/tool' --wait
  berth images build cloud --disk @debian-12-generic.qcow2 --wait`,
    )
    .action(async (name: string, options: BuildOptions) => {
      const [connected, shown] = [connect(), screen()];
      const json = await recipeOf(connected, shown, name, options);
      const headers = { 'idempotency-key': randomUUID() };
      const image = await patiently(() => callJson<Image>(connected, '/v1/images', { method: 'POST', json, headers }));
      if (image.state === 'building' && options.follow)
        await copyLog(connected, { ...shown, out: shown.err }, name, { digest: image.digest, follow: '1' });
      const end = options.follow || options.wait ? await built(connected, image) : image;
      printState(shown, end);
      process.exitCode = end.state === 'failed' ? 1 : 0;
    });

  images
    .command('list')
    .alias('ls')
    .description('list images, newest first')
    .option('--state <state>', 'only images in this state')
    .option('--limit <n>', 'how many', whole, 50)
    .action(async ({ state, limit }: { state?: string; limit: number }) => {
      const query: Record<string, string> = state === undefined ? {} : { state };
      printRows(screen(), await list<Image>(connect(), '/v1/images', query, limit), {
        name: (image) => image.name,
        digest: (image) => image.digest,
        state: (image) => image.state,
        size: (image) => sizeOf(image.sizeBytes),
        hosts: (image) => image.hosts.join(','),
        published: (image) => (image.published ? 'yes' : 'no'),
        created: (image) => image.createdAt,
      });
    });

  images
    .command('show')
    .description('describe what a name stands for')
    .argument('<name>')
    .option('--digest <digest>')
    .action(async (name: string, { digest }: { digest?: string }) => printOne(screen(), await getImage(connect(), name, digest)));

  images
    .command('log')
    .description('print the log of a build')
    .argument('<name>')
    .option('--digest <digest>')
    .option('--follow', 'go on until the build is over')
    .action((name: string, { digest, follow }: { digest?: string; follow?: boolean }) =>
      copyLog(connect(), screen(), name, { ...(digest === undefined ? {} : { digest }), follow: follow ? '1' : '0' }),
    );

  images
    .command('delete')
    .alias('rm')
    .description('delete an image, or cancel its build')
    .argument('<name>')
    .option('--digest <digest>', 'this one alone')
    .action(async (name: string, { digest }: { digest?: string }) => {
      const query = digest === undefined ? '' : `?${new URLSearchParams({ digest })}`;
      const answer = await call(connect(), pathOf(name, query), { method: 'DELETE' });
      await answer.body.dump();
      print(screen(), `${name} ${answer.statusCode === 202 ? 'will be cancelled' : 'deleted'}`);
    });

  images
    .command('publish')
    .description('give an image to every owner, or take it back (operators)')
    .argument('<name>')
    .option('--owner <id>', 'whose')
    .option('--undo', 'take it back')
    .action(async (name: string, { owner, undo }: { owner?: string; undo?: boolean }) => {
      const query = owner === undefined ? '' : `?${new URLSearchParams({ owner })}`;
      const json = { published: !undo };
      const image = await callJson<Image>(connect(), pathOf(name, `/publication${query}`), { method: 'PUT', json });
      print(screen(), screen().json ? JSON.stringify(image) : `${name} ${image.published ? 'published' : 'not published'}`);
    });
}
