import type { DomainConfig } from '../../contracts/domain.ts';
import { BerthError } from '../../model/errors.ts';
import { failuresToRetire, type Templates } from '../ports/templates.ts';
import { refuseInUse, refuseMissing } from './hypervisor.ts';
import { bug, endDomain, type FakeState, imagePath, newDomain, refuseLive } from './state.ts';

const bytes = 100 * 2 ** 20;

export function createFakeTemplates(state: FakeState): Templates {
  const at = (image: string, key: string): string => `${image}/${key}`;
  return {
    computeKey: async (config) => keyOf(config),
    async find(image, key) {
      const found = state.templates.get(at(image, key));
      if (found === undefined) return 'none';
      return found.ready ? { image, key, disk: diskOf(image, key) } : 'retired';
    },
    async save(image, key, config, parts) {
      const domain = state.domains.get(config.name);
      if (domain === undefined || domain.status.state !== 'running')
        throw new BerthError('hypervisor', `saving ${config.name}: it does not run`);
      if (config.memory.kind !== 'template' || config.memory.file !== parts.memory) throw bug('a template without its memory');
      if (config.nic.bridge !== null) throw bug(`${config.name} becomes a template on the network ${config.nic.bridge}`);
      if (!domain.quiesced) throw bug(`${config.name} becomes a template before it is quiesced`);
      if (domain.identity !== null || domain.job !== 'none')
        throw bug(`${config.name} becomes a template with an identity or a job`);
      if (keyOf(config) !== key) throw bug(`${config.name} is no machine for the template ${key}`);
      const disk = state.disks.get(parts.disk);
      if (disk?.kind !== 'overlay') throw bug(`no overlay at ${parts.disk}`);
      endDomain(state, config.name, 'left');
      state.disks.delete(parts.disk);
      state.templates.set(at(image, key), { ready: true, failures: 0 });
      return { bytes };
    },
    async startDomain(config, { image, key }) {
      if (state.templates.get(at(image, key))?.ready !== true)
        throw new BerthError('hypervisor', `starting ${config.name} from ${key}: that template is gone`);
      if (keyOf(config) !== key) throw bug(`${config.name} is no machine for the template ${key}`);
      refuseInUse(state, config);
      refuseMissing(state, config);
      for (const { source } of config.disks) refuseLive(state, source.path, 'opening');
      const overlay = state.disks.get(config.disks[0]!.source.path);
      if (overlay?.kind !== 'overlay' || overlay.copyOf !== diskOf(image, key))
        throw bug(`${config.name} from ${key} with a disk that doesn't go with its memory`);
      if (state.templateFault.kind === 'refused')
        throw new BerthError('hypervisor', `virsh restore: ${config.name} did not load`);
      if (!state.consoles.has(config.consoleLog)) state.consoles.set(config.consoleLog, '');
      // A guest from a template runs at once; a silent one never answers.
      const createdMs = state.templateFault.kind === 'silent' ? Number.POSITIVE_INFINITY : state.clock.nowMs() - state.bootMs;
      state.domains.set(config.name, newDomain(config, 'warm', createdMs));
    },
    async recordOutcome({ image, key }, outcome) {
      const found = state.templates.get(at(image, key));
      if (found === undefined) return 'kept';
      found.failures = outcome === 'started' ? 0 : found.failures + 1;
      if (found.failures < failuresToRetire) return 'kept';
      found.ready = false;
      return 'retired';
    },
  };
}

const diskOf = (image: string, key: string): string => imagePath(image, `templates/${key}/disk.qcow2`);

function keyOf({ vcpus, memoryMiB, kernel, cmdline, disks }: DomainConfig): string {
  const parts = [`${vcpus}x${memoryMiB}`, kernel ?? 'disk', cmdline, ...disks.map(({ target }) => target)];
  return parts.join('-').replaceAll(/[^\w-]/g, '_');
}
