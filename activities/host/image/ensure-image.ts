import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { ImageRef } from '../../../model/vm.ts';

export async function ensureImage(
  { imageCache: images }: HostPorts,
  image: ImageRef,
  pinnedUntil: string | null,
  signal: AbortSignal,
): Promise<{ from: 'cache' | 'peer' | 'repository'; bytes: number }> {
  const ensured = await images.ensure(image, signal);
  if (pinnedUntil !== null) await images.pin(image.id, Date.parse(pinnedUntil));
  return ensured;
}
