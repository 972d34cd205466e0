import type { BuiltTemplate } from '../../../contracts/host.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { templateConfig } from '../vm/domain-config.ts';
import { domainName } from '../vm/domain-names.ts';
import { awaitAgent, bootDeadlineMs } from '../vm/guest-identity.ts';

/**
 * The size of the data disk with which a template is saved. No VM's is larger, so that its guest can mount it before QEMU
 * has reported the real size (model/task.ts bounds diskMiB to half of this). A hole in a file, never written.
 */
const templateDataDiskMiB = 2 * 2 ** 20;

/**
 * Boots a VM from an image, quiesces it and saves it with its memory as a template. It has no identity, no network and no
 * owner; `vm` gives its hardware. Begins anew after a kill at any line.
 */
export async function buildTemplate(ports: HostPorts, vm: VmSpec, signal: AbortSignal): Promise<BuiltTemplate> {
  const { diskTool, guest, hypervisor, imageCache, store, templates } = ports;
  await imageCache.ensure(vm.image, signal);
  const config = await templateConfig(ports, vm);
  const key = await templates.computeKey(config);
  const found = await templates.find(vm.image.id, key);
  if (found !== 'none') return { key, outcome: found === 'retired' ? 'retired' : 'already', bytes: 0 };

  // All of its memory may be written to, and images have precedence in the cache.
  if (!(await imageCache.evictToFit(vm.memoryMiB * 2 ** 20))) return { key, outcome: 'full', bytes: 0 };
  const name = domainName(vm.id);
  const paths = store.paths(vm.id);
  if ((await hypervisor.status(name)) !== null) await hypervisor.destroy(name);
  for (const path of [paths.overlay, paths.data, paths.templateMemory, paths.templateState]) await diskTool.remove(path);
  const image = await imageCache.find(vm.image.id);
  if (image === null) throw new Error(`BUG: image ${vm.image.id} left the cache while a VM's record names it`);
  await diskTool.createOverlay(paths.overlay, image.disk, vm.image.virtualMiB);
  await diskTool.createEmpty(paths.data, templateDataDiskMiB);
  await hypervisor.create(config);
  await awaitAgent(ports, name, bootDeadlineMs, signal);
  await guest.quiesce(name);
  signal.throwIfAborted();
  const parts = { disk: paths.overlay, memory: paths.templateMemory, state: paths.templateState };
  const { bytes } = await templates.save(vm.image.id, key, config, parts);
  return { key, outcome: 'made', bytes };
}
