import type { HostPorts } from '../../drivers/ports.ts';
import type { VmSpec } from '../../model/vm.ts';

/** The overlay and the owner's network. The image is fetched again should the cache have dropped it since. */
export async function ensureDisks(ports: HostPorts, vm: VmSpec, signal: AbortSignal): Promise<void> {
  const { store, images, disks, network } = ports;
  const { overlay } = store.paths(vm.id);
  const networked = network.ensure(vm.network);
  try {
    if (await disks.exists(overlay)) return;
    await images.ensure(vm.image, signal);
    const image = await images.find(vm.image.id);
    if (image === null) throw new Error(`BUG: image ${vm.image.id} left the cache while a VM's record names it`);
    await disks.createOverlay(overlay, image.disk, vm.image.virtualMiB);
  } finally {
    await networked;
  }
}
