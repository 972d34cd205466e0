import type { ImageSource } from '../../../contracts/host.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { ImageRef } from '../../../model/vm.ts';

export async function ensureImage(
  { imageCache }: HostPorts,
  image: ImageRef,
  pinnedUntil: string | null,
  signal: AbortSignal,
): Promise<{ from: ImageSource; bytes: number }> {
  const ensured = await imageCache.ensure(image, signal);
  if (pinnedUntil !== null) await imageCache.pin(image.id, Date.parse(pinnedUntil));
  return ensured;
}
