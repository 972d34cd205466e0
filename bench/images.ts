import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { startSite } from '../infra/site/site.ts';
import { SiteClient } from '../test/site/client.ts';

/**
 * Images that a user would make: debian-12 and ffmpeg, from Debian's archive, with a task on it that encodes a real clip;
 * or one of Debian's suites from nothing, with a task that says what it is.
 *
 *   node bench/images.ts ffmpeg|suite
 *
 * A command of its own, because installing 200 packages in an emulated machine takes minutes. Prints what it measured as
 * JSON lines; exits with 1 when something was not as it should be.
 */
interface Image {
  id: string;
  digest: string;
  state: string;
  sizeBytes: number;
  error: { message: string } | null;
  timeline: { step: string; startedAt: string; endedAt: string }[];
}

const line = (name: string, value: number, unit: string, more: object = {}): void =>
  console.log(JSON.stringify({ name, value: Number(value.toFixed(3)), unit, ...more }));
const secondsSince = (from: number): number => (performance.now() - from) / 1000;

function require(met: boolean, what: string): void {
  if (!met) throw new Error(`it is not so that ${what}`);
}

const limits = { resources: { vcpus: 1, memoryMiB: 512 }, timeoutS: 3600 };
const encoder = { name: 'encoder', base: { image: 'debian-12' }, packages: ['ffmpeg'], ...limits };
const bare = { name: 'bare', base: { suite: 'bookworm' }, commands: ['echo made from nothing > /etc/made'], ...limits };

async function build(client: SiteClient, recipe: { name: string }): Promise<Image> {
  const began = performance.now();
  const { body } = await client.insist<Image>('POST', '/v1/images', recipe);
  for (;;) {
    const image = (await client.insist<Image>('GET', `/v1/images/${recipe.name}?digest=${body.digest}`)).body;
    if (image.state === 'building') {
      await pause(1000);
      continue;
    }
    const log = (await client.call<string>('GET', `/v1/images/${recipe.name}/log`)).body;
    if (image.state !== 'ready') throw new Error(`${image.error?.message}\n${log.slice(-3000)}`);
    const steps = image.timeline.map(({ step, startedAt, endedAt }) => [
      step,
      (Date.parse(endedAt) - Date.parse(startedAt)) / 1000,
    ]);
    line(`image.${recipe.name}.build`, secondsSince(began), 's', {
      steps: Object.fromEntries(steps),
      sizeBytes: image.sizeBytes,
    });
    return image;
  }
}

async function buildAgain(client: SiteClient, recipe: { name: string }, first: Image): Promise<void> {
  const began = performance.now();
  const { status, body } = await client.insist<Image>('POST', '/v1/images', recipe);
  const seconds = secondsSince(began);
  require(status === 200 && body.id === first.id && body.state === 'ready', 'the second build returned the first image at once');
  line(`image.${recipe.name}.again`, seconds, 's');
}

/** A second of a test picture, encoded with x264, and looked at again with ffprobe. */
const encode = `set -e
mkdir -p out
ffmpeg -hide_banner -loglevel error -f lavfi -i testsrc=duration=1:size=160x120:rate=10 -f rawvideo -pix_fmt yuv420p clip.yuv
ffmpeg -hide_banner -loglevel error -f rawvideo -pix_fmt yuv420p -s 160x120 -r 10 -i clip.yuv -c:v libx264 -preset ultrafast out/clip.mp4
ffprobe -v error -count_frames -show_entries stream=codec_name,width,height,nb_read_frames -of csv=p=0 out/clip.mp4`;

async function encodeClip(client: SiteClient): Promise<void> {
  const began = performance.now();
  const task = await client.submit({
    image: 'encoder',
    command: ['sh', '-c', encode],
    outputs: ['out/*'],
    resources: { vcpus: 1, memoryMiB: 512, diskMiB: 64 },
    timeoutS: 600,
  });
  const ended = await client.until(task.id, ['succeeded', 'failed'], 900);
  const log = (await client.call<string>('GET', `/v1/tasks/${task.id}/log`)).body;
  require(ended.state === 'succeeded', `the task encodes: ${log}`);
  require(log.trim().endsWith('h264,160,120,10'), `the clip is h264 of 10 frames: ${log}`);
  const bytes = await client.download(ended.outputs[0]!.file);
  require(bytes.subarray(4, 8).toString() === 'ftyp', 'the output is an MP4 file');
  line('image.encoder.task', secondsSince(began), 's', { clipBytes: bytes.length, said: log.trim() });
}

async function askBare(client: SiteClient): Promise<void> {
  const began = performance.now();
  const resources = { vcpus: 1, memoryMiB: 256, diskMiB: 64 };
  const command = ['sh', '-c', 'cat /etc/made; . /etc/os-release; echo "$VERSION_CODENAME"'];
  const task = await client.submit({ image: 'bare', command, resources, timeoutS: 600 });
  const ended = await client.until(task.id, ['succeeded', 'failed'], 900);
  const log = (await client.call<string>('GET', `/v1/tasks/${task.id}/log`)).body;
  require(ended.state === 'succeeded' && log === 'made from nothing\nbookworm\n', `the suite boots and says what it is: ${log}`);
  line('image.bare.task', secondsSince(began), 's');
}

const [what] = process.argv.slice(2);
if (what !== 'ffmpeg' && what !== 'suite') throw new Error('say ffmpeg or suite');
const home = await mkdtemp(join(tmpdir(), 'berth-ffmpeg-'));
const site = await startSite({ home, hosts: 1, apiPort: 0, settings: {}, note: (text) => console.error(text) });
try {
  const client = await SiteClient.fromKeyFile(site.ready.api, site.ready.clientKeyFile);
  const recipe = what === 'ffmpeg' ? encoder : bare;
  const image = await build(client, recipe);
  await buildAgain(client, recipe, image);
  await (what === 'ffmpeg' ? encodeClip : askBare)(client);
} finally {
  await site.stop();
  await rm(home, { recursive: true, force: true });
}
