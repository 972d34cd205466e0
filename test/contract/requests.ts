import { createHash } from 'node:crypto';
import type { RunCommand, StageIn, StageOut } from '../../contracts/host.ts';
import type { FakeRepository } from '../../drivers/fake/repository.ts';
import { type HostId, newId } from '../../model/ids.ts';
import { type ContentRef, currentMachine, type ImageRef, type NetworkRef, type VmSpec } from '../../model/vm.ts';

/** Requests as the ledger makes them. */
const base = 'http://repository.test';

function blob(repository: FakeRepository, name: string, content: string): ContentRef {
  const url = `${base}/internal/files/${name}?expires=1&signature=x`;
  repository.sources.set(url, Buffer.from(content));
  return { url, sizeBytes: content.length, sha256: createHash('sha256').update(content).digest('hex') };
}

export function imageOf(repository: FakeRepository): ImageRef {
  return {
    id: newId('image'),
    name: 'debian-12',
    digest: 'd'.repeat(64),
    virtualMiB: 1024,
    cmdline: 'root=/dev/vda',
    cloudInit: false,
    parts: {
      disk: blob(repository, 'disk', 'a disk'),
      kernel: blob(repository, 'kernel', 'a kernel'),
      initrd: blob(repository, 'initrd', 'an initrd'),
    },
    peers: [],
  };
}

let made = 0;

const ownNetwork: NetworkRef = { vni: 0x101, cidr: '10.128.0.0/22', gateway: '10.128.0.1' };

/** A VM as the ledger places it, with its own address in its network. */
export function vmOf(image: ImageRef, more: Partial<VmSpec> = {}): VmSpec {
  made += 1;
  const { host = 'host1' as HostId, name = 'node0', network = ownNetwork } = more;
  const address = network.cidr.replace(/\d+\/\d+$/, String((made % 200) + 10));
  return {
    id: newId('vm'),
    owner: newId('owner'),
    name,
    generation: 1,
    host,
    home: host,
    image,
    vcpus: 1,
    memoryMiB: 256,
    diskMiB: 64,
    rootMiB: image.virtualMiB,
    extraDisksMiB: [],
    network,
    address,
    mac: `52:54:00:00:00:${(made % 256).toString(16).padStart(2, '0')}`,
    machine: currentMachine,
    onReboot: 'destroy',
    neighbours: [{ name, address }],
    ...more,
  };
}

export function requestsOf(repository: FakeRepository, vm: VmSpec, outputs: string[] = ['out/*']) {
  const content = 'one two three\n';
  const words = blob(repository, `words-${vm.id}`, content);
  const stageIn: StageIn = {
    vm,
    inputs: [{ path: 'in/words', url: words.url, source: 'repository', sizeBytes: words.sizeBytes, sha256: words.sha256 }],
    limits: { outsideBytes: 2 ** 20, outsideSeconds: 10, allowInternal: false },
  };
  const run: RunCommand = {
    vm,
    command: ['sh', '-c', 'wc -w in/words > out/count'],
    env: { LANG: 'C', BERTH_NODE: '0' },
    timeoutS: 60,
    log: { url: `${base}/internal/tasks/${vm.id}/log/0?expires=1&signature=x`, limitBytes: 2 ** 20 },
  };
  const stageOut: StageOut = {
    vm,
    node: 0,
    patterns: outputs,
    uploadUrl: `${base}/internal/tasks/${vm.id}/outputs/0?expires=1&signature=x`,
    limits: { files: 100, bytes: 2 ** 30 },
  };
  return { stageIn, run, stageOut };
}
