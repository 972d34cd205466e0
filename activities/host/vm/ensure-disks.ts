import type { ImageSource } from '../../../contracts/host.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { allOrAbort } from '../all-or-abort.ts';
import { extraDiskFile } from './domain-config.ts';

/** The overlay and the owner's network. The image is fetched where the cache lacks it. Returns where it came from. */
export async function ensureDisks(ports: HostPorts, vm: VmSpec, signal: AbortSignal): Promise<ImageSource> {
  let from: ImageSource = 'cache';
  await allOrAbort(signal, [
    async () => {
      await ports.network.ensure(vm.network);
    },
    async (either) => {
      from = await ensureOverlay(ports, vm, either);
    },
    () => ensureExtraDisks(ports, vm),
  ]);
  return from;
}

async function ensureExtraDisks({ store, diskTool: disks }: HostPorts, { id, extraDisksMiB }: VmSpec): Promise<void> {
  for (const [index, sizeMiB] of extraDisksMiB.entries()) {
    const path = `${store.paths(id).folder}/${extraDiskFile(index)}`;
    if (!(await disks.exists(path))) await disks.createEmpty(path, sizeMiB);
  }
}

async function ensureOverlay(
  { store, imageCache: images, diskTool: disks }: HostPorts,
  vm: VmSpec,
  signal: AbortSignal,
): Promise<ImageSource> {
  const { overlay } = store.paths(vm.id);
  if (await disks.exists(overlay)) return 'cache';
  const { from } = await images.ensure(vm.image, signal);
  const image = await images.find(vm.image.id);
  if (image === null) throw new Error(`BUG: image ${vm.image.id} left the cache while a VM's record names it`);
  await disks.createOverlay(overlay, image.disk, vm.rootMiB);
  return from;
}
