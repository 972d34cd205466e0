import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { HostFacts } from '../../../model/host.ts';

export async function observeHost({ probe, imageCache: images }: HostPorts): Promise<HostFacts> {
  const [measured, cached] = await Promise.all([probe.measure(), images.list()]);
  return { ...measured, images: cached };
}
