import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { type Connection, callEmpty, callJson, list, poll, type Session, UsageError, withRetry } from '../client.ts';
import { copyLog } from '../logs.ts';
import { collect, given, readJson, splitPair, unlessEmpty, wholeNumber } from '../options.ts';
import { type Output, print, printOne, printRows, sizeOf } from '../output.ts';
import { fileIdOf } from './files.ts';

interface Image {
  id: string;
  name: string;
  digest: string;
  state: string;
  owner: string | null;
  published: boolean;
  sizeBytes: number;
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

/** @param query fields that are undefined are left out */
function imagePath(name: string, rest = '', query: Record<string, string | undefined> = {}): string {
  const text = new URLSearchParams(given(query) as Record<string, string>).toString();
  return `/v1/images/${encodeURIComponent(name)}${rest}${text && `?${text}`}`;
}

async function baseOf(connection: Connection, output: Output, { base, disk, suite }: BuildOptions): Promise<object | undefined> {
  if ([base, disk, suite].filter((one) => one !== undefined).length > 1)
    throw new UsageError('--base, --disk and --suite exclude each other');
  if (disk !== undefined) return { file: await fileIdOf(connection, output, disk) };
  if (suite !== undefined) return { suite };
  return base === undefined ? undefined : { image: base };
}

async function recipeOf(connection: Connection, output: Output, name: string, options: BuildOptions): Promise<object> {
  const fromFile = options.recipe === undefined ? {} : await readJson(options.recipe);
  const files = [];
  for (const text of options.file) {
    const [path, source] = splitPair(text, '--file');
    files.push({ path, file: await fileIdOf(connection, output, source) });
  }
  const fields = given({
    name,
    base: await baseOf(connection, output, options),
    packages: unlessEmpty(options.package),
    files: unlessEmpty(files),
    commands: unlessEmpty(options.run),
    env: unlessEmpty(Object.fromEntries(options.env.map((text) => splitPair(text, '--env')))),
    sizeMiB: options.sizeMib,
    cloudInit: options.cloudInit,
    resources: unlessEmpty(given({ vcpus: options.vcpus, memoryMiB: options.memoryMib })),
    timeoutS: options.timeoutS,
  });
  return { ...fromFile, ...fields };
}

const getImage = (connection: Connection, name: string, digest: string | undefined): Promise<Image> =>
  callJson<Image>(connection, imagePath(name, '', { digest }));

const waitForBuild = (connection: Connection, { name, digest }: Image): Promise<Image> =>
  poll(
    () => getImage(connection, name, digest),
    ({ state }) => state !== 'building',
  );

function printState(output: Output, image: Image): void {
  if (output.json) {
    printOne(output, image);
    return;
  }
  const why = image.error === null ? '' : `: ${image.error.message} (${image.error.code})`;
  print(output, `${image.name} ${image.digest} ${image.state}${why}`);
}

export function addImageCommands(program: Command, { connect, output }: Session): void {
  const images = program.command('images').description('build images, and see those that are there');

  images
    .command('build')
    .description('build an image from a recipe; one that was built already is there at once')
    .argument('<name>', 'what the image is to be called')
    .option('-f, --recipe <path>', 'a recipe as JSON; - for the standard input; other options change it')
    .option('--base <image>', 'build on this image')
    .option('--disk <source>', 'take this disk, qcow2 or raw: @local-file, or id or name of a stored file')
    .option('--suite <name>', "install this one of Debian's suites")
    .option('--package <name>', 'may be repeated', collect, [])
    .option('--file <path=source>', 'source: @local-file, or id or name of a stored file; may be repeated', collect, [])
    .option('--run <command>', 'a shell command; may be repeated', collect, [])
    .option('--env <name=value>', 'environment of the build; may be repeated', collect, [])
    .option('--size-mib <n>', 'size of the disk', wholeNumber)
    .option('--cloud-init', 'its VMs are given a NoCloud seed')
    .option('--vcpus <n>', 'of the build VM', wholeNumber)
    .option('--memory-mib <n>', 'of the build VM', wholeNumber)
    .option('--timeout-s <n>', 'how long the build may take', wholeNumber)
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
      const [connection, shown] = [connect(), output()];
      const json = await recipeOf(connection, shown, name, options);
      const headers = { 'idempotency-key': randomUUID() };
      const image = await withRetry(() => callJson<Image>(connection, '/v1/images', { method: 'POST', json, headers }));
      if (image.state === 'building' && options.follow)
        await copyLog(connection, imagePath(name, '/log', { digest: image.digest, follow: '1' }), shown.err);
      const end = options.follow || options.wait ? await waitForBuild(connection, image) : image;
      printState(shown, end);
      process.exitCode = end.state === 'failed' ? 1 : 0;
    });

  images
    .command('list')
    .alias('ls')
    .description('list images, newest first')
    .option('--state <state>', 'only images in this state')
    .option('--limit <n>', 'how many', wholeNumber, 50)
    .addHelpText('after', '\nExample:\n  berth images list --state building')
    .action(async ({ state, limit }: { state?: string; limit: number }) => {
      const query: Record<string, string> = state === undefined ? {} : { state };
      printRows(output(), await list<Image>(connect(), '/v1/images', query, limit), {
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
    .argument('<name>', 'of the image')
    .option('--digest <digest>', 'this one of that name, not the newest that is ready')
    .addHelpText('after', '\nExample:\n  berth images show encoder')
    .action(async (name: string, { digest }: { digest?: string }) => printOne(output(), await getImage(connect(), name, digest)));

  images
    .command('log')
    .description('print the log of a build')
    .argument('<name>', 'of the image')
    .option('--digest <digest>', 'this one of that name, not the newest that is ready')
    .option('--follow', 'go on until the build is over')
    .addHelpText('after', '\nExample:\n  berth images log encoder --follow')
    .action((name: string, { digest, follow }: { digest?: string; follow?: boolean }) =>
      copyLog(connect(), imagePath(name, '/log', { digest, follow: follow ? '1' : '0' }), output().out),
    );

  images
    .command('delete')
    .alias('rm')
    .description('delete an image, or cancel its build')
    .argument('<name>', 'of the image')
    .option('--digest <digest>', 'this one alone')
    .addHelpText('after', '\nExample:\n  berth images delete encoder')
    .action(async (name: string, { digest }: { digest?: string }) => {
      const status = await callEmpty(connect(), imagePath(name, '', { digest }), { method: 'DELETE' });
      print(output(), `${name} ${status === 202 ? 'will be cancelled' : 'deleted'}`);
    });

  images
    .command('publish')
    .description('give an image to every owner, or take it back (operators)')
    .argument('<name>', 'of the image')
    .option('--owner <id>', 'whose')
    .option('--undo', 'take it back')
    .addHelpText('after', '\nExample:\n  berth images publish encoder')
    .action(async (name: string, { owner, undo }: { owner?: string; undo?: boolean }) => {
      const json = { published: !undo };
      const image = await callJson<Image>(connect(), imagePath(name, '/publication', { owner }), { method: 'PUT', json });
      print(output(), output().json ? JSON.stringify(image) : `${name} ${image.published ? 'published' : 'not published'}`);
    });
}
