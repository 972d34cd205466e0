import { BerthError } from '../../model/errors.ts';
import { escapeXml } from './domain-xml.ts';
import type { Virsh } from './virsh.ts';
import { callVirsh, noDomainPattern, virshError } from './virsh-call.ts';

/** `absent`: the domain's devices are of a version without this channel. */
export type ChannelState = 'connected' | 'disconnected' | 'absent';

const callDeadlineMs = 10_000;

/** Whether a program in the guest has the port of a channel open, as QEMU reports it. `conflict` where there is no domain. */
export async function readChannelState(virsh: Virsh, domain: string, port: string): Promise<ChannelState> {
  const answer = await callVirsh(virsh, ['dumpxml', domain], callDeadlineMs);
  if (!answer.ok && noDomainPattern.test(answer.error))
    throw new BerthError('conflict', `looking at ${domain}: it does not run on this host`);
  if (!answer.ok) throw virshError(['dumpxml', domain], answer.error);
  const target = [...answer.output.matchAll(/<target type='virtio'[^>]*>/g)].find(([text]) =>
    text.includes(`name='${escapeXml(port)}'`),
  )?.[0];
  if (target === undefined) return 'absent';
  return target.includes("state='connected'") ? 'connected' : 'disconnected';
}
