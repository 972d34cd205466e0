import type { ImageSource } from '../../../contracts/host.ts';
import { vmFilePath } from '../../../drivers/host/vm-paths.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { allOrAbort } from '../all-or-abort.ts';

/** Makes the overlay, the extra disks and the owner's network. Fetches the image where the cache lacks it; returns from where. */
export async function ensureDisks(ports: HostPorts, vm: VmSpec, signal: AbortSignal): Promise<ImageSource> {
  let from: ImageSource = 'cache';
  await allOrAbort(signal, [
    async () => {
      await ports.network.ensure(vm.network);
    },
    async (anySignal) => {
      from = await ensureOverlay(ports, vm, anySignal);
    },
    () => ensureExtraDisks(ports, vm),
  ]);
  return from;
}

async function ensureExtraDisks({ store, diskTool }: HostPorts, { id, extraDisksMiB }: VmSpec): Promise<void> {
  for (const [index, sizeMiB] of extraDisksMiB.entries()) {
    const path = vmFilePath(store.paths(id), `extra-${index}`);
    if (!(await diskTool.exists(path))) await diskTool.createEmpty(path, sizeMiB);
  }
}

async function ensureOverlay({ store, imageCache, diskTool }: HostPorts, vm: VmSpec, signal: AbortSignal): Promise<ImageSource> {
  const { overlay } = store.paths(vm.id);
  if (await diskTool.exists(overlay)) return 'cache';
  const { from } = await imageCache.ensure(vm.image, signal);
  const image = await imageCache.find(vm.image.id);
  if (image === null) throw new Error(`BUG: image ${vm.image.id} left the cache while a VM's record names it`);
  await diskTool.createOverlay(overlay, image.disk, vm.rootMiB);
  return from;
}
