import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { HostFacts } from '../../../model/host.ts';

export async function observeHost({ probe, imageCache }: HostPorts): Promise<HostFacts> {
  const [measured, cached] = await Promise.all([probe.measure(), imageCache.list()]);
  return { ...measured, images: cached };
}
