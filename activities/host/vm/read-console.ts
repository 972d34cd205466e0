import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { ConsolePage, ConsoleRange } from '../../../model/console.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';

/** What a guest wrote to its serial port, on this host and before. `conflict` before its first start here. */
export async function readConsole({ store, consoleHistory }: HostPorts, vmId: VmId, range: ConsoleRange): Promise<ConsolePage> {
  await consoleHistory.arrived(vmId);
  const page = await store.readConsole(vmId, range);
  if (page === null) throw new BerthError('conflict', `reading the console of ${vmId}: it has not been started on this host yet`);
  const { from, totalBytes, bytes } = page;
  return { from, totalBytes, base64: bytes.toString('base64') };
}
