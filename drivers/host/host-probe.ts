import { randomUUID } from 'node:crypto';
import { readFile, statfs } from 'node:fs/promises';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import type { HostId } from '../../model/ids.ts';
import { probeKvm } from '../libvirt/kvm-probe.ts';
import type { HostProbe } from '../ports/host-probe.ts';
import type { Hypervisor } from '../ports/hypervisor.ts';
import type { ImageCache } from '../ports/image-cache.ts';
import type { VmStore } from '../ports/vm-store.ts';
import { isErrno, readText, replaceDurably } from './files.ts';

interface HostProbeOptions {
  hostId: HostId;
  address: string;
  provider: string;
  joinToken: string | undefined;
  root: string;
  reserve: { vcpus: number; memoryMiB: number; diskMiB: number };
  /** The share of this machine that this host may count: below 1 where a machine plays several. */
  capacityShare: number;
  vcpuRatio: number;
  hypervisor: Hypervisor;
  images: ImageCache;
  store: VmStore;
  /** How many other machines the site has; null: it is not known yet. */
  otherMachines: () => number | null;
}

const mib = 2 ** 20;

/** Measures this machine at each start of the worker, except the accelerator, which is probed once a boot. */
export function openHostProbe(options: HostProbeOptions): HostProbe {
  let probing: ReturnType<typeof probeAccelerator> | null = null;
  const probe: HostProbe = {
    async accelerator() {
      probing ??= probeAccelerator(options);
      const mine = probing;
      try {
        const { kind, final } = await mine;
        if (!final && probing === mine) probing = null;
        return kind;
      } catch (error) {
        if (probing === mine) probing = null;
        throw error;
      }
    },
    clockMs: () => Date.now(),
    async bootedMs() {
      const seconds = Number(/^btime (\d+)$/m.exec(await readFile('/proc/stat', 'utf8'))?.[1]);
      if (!Number.isFinite(seconds)) throw new Error('BUG: /proc/stat has no btime');
      return seconds * 1000;
    },
    async measure() {
      const [disk, folders, memoryBytes, bootId, kind, hypervisor, machine] = await Promise.all([
        statfs(options.root),
        options.store.list(),
        memoryLimitBytes(),
        readFile('/proc/sys/kernel/random/boot_id', 'utf8'),
        probe.accelerator(),
        options.hypervisor.version(),
        readMachine(options.root),
      ]);
      const oursBytes = folders.reduce((sum, { bytes }) => sum + bytes, 0);
      const others = options.otherMachines();
      const shared = (amount: number): number => Math.floor(amount * options.capacityShare);
      return {
        hostId: options.hostId,
        address: options.address,
        provider: options.provider,
        joinToken: options.joinToken,
        capacity: {
          vcpus: Math.max(1, shared(availableParallelism() * options.vcpuRatio)),
          memoryMiB: shared(memoryBytes / mib),
          // What is free and what our VMs take: the ledger counts these; what other programs take is no capacity.
          diskMiB: Math.floor((disk.bavail * disk.bsize * options.capacityShare + oursBytes) / mib),
        },
        reserve: options.reserve,
        cpuModel: cpus()[0]?.model ?? 'unknown',
        accelerator: kind,
        hypervisor,
        bootId: bootId.trim(),
        bootedAgoMs: Math.max(0, Date.now() - (await probe.bootedMs())),
        machine,
        ...(others !== null && { siteMachines: others + 1 }),
      };
    },
  };
  return probe;
}

/** Machines that were cloned share a machine-id, until their disks are: so the disk has a number of its own as well. */
async function readMachine(root: string): Promise<string> {
  const path = join(root, 'disk-id');
  let disk = (await readText(path))?.trim() ?? '';
  if (disk === '') {
    disk = randomUUID();
    await replaceDurably(path, `${disk}\n`);
  }
  const machineId = (await readText('/etc/machine-id'))?.trim() ?? '';
  return `${machineId === '' ? 'no-machine-id' : machineId}/${disk}`;
}

/** The machine's memory, or less where a control group says so (v2, then v1). */
async function memoryLimitBytes(): Promise<number> {
  let bytes = totalmem();
  for (const path of ['/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes']) {
    const limit = Number((await readText(path))?.trim());
    if (Number.isFinite(limit) && limit > 0) bytes = Math.min(bytes, limit);
  }
  return bytes;
}

async function anyKernel(images: HostProbeOptions['images']): Promise<string | null> {
  for (const image of await images.list()) {
    const kernel = (await images.find(image))?.kernel ?? null;
    if (kernel !== null) return kernel;
  }
  return null;
}

/** A result holds until the machine is booted again; without one guests are emulated, which works on every machine. */
async function probeAccelerator({ root, images }: HostProbeOptions): Promise<{ kind: 'kvm' | 'qemu'; final: boolean }> {
  const path = join(root, 'accelerator');
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const [cachedBoot, cached] = ((await readText(path)) ?? '').trim().split(' ');
  if (cachedBoot === bootId && (cached === 'kvm' || cached === 'qemu')) return { kind: cached, final: true };
  const found = await probeKvm(await anyKernel(images));
  if (found === 'unknown') return { kind: 'qemu', final: false };
  try {
    await replaceDurably(path, `${bootId} ${found}\n`);
  } catch (error) {
    // A full or read-only disk costs another probe at the next start, no more.
    if (!isErrno(error, 'ENOSPC', 'EDQUOT', 'EROFS')) throw error;
  }
  return { kind: found, final: true };
}
