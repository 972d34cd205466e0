import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HostActivities } from '../../../contracts/host.ts';
import { run } from '../../../drivers/host/run-process.ts';
import { startBareHosts } from '../../../infra/site/bare-hosts.ts';
import { type Host, nsenterArgv } from '../../../infra/site/host/host.ts';
import { newId } from '../../../model/ids.ts';
import type { ImageRef } from '../../../model/vm.ts';
import type { Bench } from '../suite.ts';
import { type FarSide, openFarSide } from './near-side.ts';

export interface RealHost extends Bench {
  host: Host;
  far(): FarSide;
  activities(): HostActivities;
  /** Stored outputs, by path. */
  outputs(): Map<string, Buffer>;
  /** Kills the worker with SIGKILL and starts another, which is told how this one ended. */
  restart(previousEnd?: string): Promise<void>;
  /** Kills a domain's QEMU. */
  crash(name: string): Promise<void>;
  /** Runs a program on the host. */
  on(argv: [string, ...string[]]): Promise<string>;
}

/** Real hosts with the real drivers, and a repository on each that serves from one folder; `settings` of their workers. */
export async function openRealHosts(
  count: number,
  settings: Record<string, string> = {},
): Promise<{ hosts: RealHost[]; stop(): Promise<void> }> {
  const folder = mkdtempSync(join(tmpdir(), 'berth-contract-'));
  const bare = await startBareHosts(join(folder, 'home'), count, () => undefined);
  const image = readImage();
  const hosts: RealHost[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(hosts.map((host) => host.close()));
    await bare.stop();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    for (const host of bare.hosts) {
      const others = bare.hosts.filter((other) => other !== host).map(({ address }) => address);
      const env = { TEST_MACHINES: others.join(' '), ...settings };
      hosts.push(await openRealHost(host, join(folder, host.id), image, env));
    }
  } catch (error) {
    await stop();
    throw error;
  }
  return { hosts, stop };
}

async function openRealHost(host: Host, folder: string, image: BuiltImage, settings: Record<string, string>): Promise<RealHost> {
  mkdirSync(join(folder, 'files'), { recursive: true });
  for (const name of ['disk.qcow2', 'kernel', 'initrd']) symlinkSync(join(image.folder, name), join(folder, 'files', name));
  const script = new URL('./repository.ts', import.meta.url).pathname;
  const [program, ...args] = nsenterArgv(host.pid()!, [process.execPath, script, folder]);
  const repository = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const port = await new Promise<string>((resolve) => repository.stdout.once('data', (text) => resolve(String(text).trim())));
  const url = (path: string): string => `http://127.0.0.1:${port}${path}`;
  const env = {
    PATH: process.env.PATH ?? '',
    BERTH_HOST_ID: host.id,
    BERTH_HOST_ADDRESS: host.address,
    BERTH_HOSTS_CIDR: host.address.replace(/\.\d+$/, '.0/24'),
    BERTH_REPOSITORY_URL: url('/'),
    ...settings,
  };
  let far = await openFarSide(host.pid()!, env);
  const ref = imageRef(image, url);
  const read = (path: string): Buffer => (existsSync(path) ? readFileSync(path) : Buffer.alloc(0));
  return {
    host,
    far: () => far,
    on: (argv) => run(nsenterArgv(host.pid()!, argv), { deadlineMs: 30_000 }),
    ports: () => far.ports,
    activities: () => far.activities,
    serve(name, content) {
      writeFileSync(join(folder, 'files', name), content);
      return url(`/files/${name}`);
    },
    url,
    image: () => ref,
    outputs: () => {
      const outputs = join(folder, 'outputs');
      const names = existsSync(outputs) ? readdirSync(outputs) : [];
      return new Map(names.map((name) => [decodeURIComponent(name), read(join(outputs, name))]));
    },
    log: (name) => read(join(folder, `log-${name}`)),
    async restart(previousEnd = 'SIGKILL') {
      await far.kill();
      far = await openFarSide(host.pid()!, { ...env, BERTH_PREVIOUS_END: previousEnd });
    },
    async crash(name) {
      const qemu = (await run(nsenterArgv(host.pid()!, ['cat', `/run/libvirt/qemu/${name}.pid`]), { deadlineMs: 5000 })).trim();
      await run(nsenterArgv(host.pid()!, ['kill', '-KILL', qemu]), { deadlineMs: 5000 });
    },
    async close() {
      await far.close();
      repository.kill();
    },
  };
}

interface BuiltImage {
  folder: string;
  virtualMiB: number;
  digest: string;
  cmdline: string;
  parts: Record<'disk' | 'kernel' | 'initrd', { sha256: string; sizeBytes: number }>;
}

/** The image that infra/setup has built. */
function readImage(): BuiltImage {
  const cache = process.env.BERTH_CACHE ?? join(homedir(), '.cache/berth');
  const folder = realpathSync(join(cache, 'images/debian-12/current'));
  return { folder, ...(JSON.parse(readFileSync(join(folder, 'image.json'), 'utf8')) as Omit<BuiltImage, 'folder'>) };
}

function imageRef(built: BuiltImage, url: (path: string) => string): ImageRef {
  return {
    id: newId('image'),
    name: 'debian-12',
    digest: built.digest,
    virtualMiB: built.virtualMiB,
    cmdline: built.cmdline,
    cloudInit: false,
    peers: [],
    parts: {
      disk: { ...built.parts.disk, url: url('/files/disk.qcow2') },
      kernel: { ...built.parts.kernel, url: url('/files/kernel') },
      initrd: { ...built.parts.initrd, url: url('/files/initrd') },
    },
  };
}
