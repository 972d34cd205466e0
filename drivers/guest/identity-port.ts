import { connect } from 'node:net';
import { BerthError } from '../../model/errors.ts';

/** What a guest that was given its identity says that it is. */
export interface ReportedIdentity {
  hostname: string;
  machineId: string;
}

/** Its name in the guest: there, berth-identity waits at it (infra/guest/identity.c). */
export const identityPortName = 'org.berth.identity.0';

/** An answer is a line of a hundred bytes, a refusal one of a few hundred. */
const answerBytes = 4096;

/**
 * Gives a guest that came from a template its identity, through the port at which its template has left a process waiting:
 * a call, an answer, and nothing that the guest would have to start for it (docs/decisions/0086). Both parts are records
 * as berth-identity reads them. Resolves when the first is applied and the guest has said who it is; the second it applies
 * by itself afterwards, and no command is started before.
 * @param path of QEMU's end of the port
 */
export function sendIdentity(path: string, first: Buffer, second: Buffer, deadlineMs: number): Promise<ReportedIdentity> {
  return new Promise((resolve, reject) => {
    let received = '';
    const socket = connect(path);
    const settle = (act: () => void): void => {
      clearTimeout(timer);
      socket.destroy();
      act();
    };
    const fail = (code: 'boot-failed' | 'hypervisor', why: string): void =>
      settle(() => reject(new BerthError(code, `giving the guest at ${path} its identity: ${why}`)));
    const timer = setTimeout(() => fail('boot-failed', `no answer in ${deadlineMs} ms`), deadlineMs);
    socket.setEncoding('utf8');
    socket.on('connect', () => {
      socket.write(Buffer.concat([Buffer.from(`${first.length} ${second.length}\n`), first, second]));
    });
    socket.on('data', (chunk: string) => {
      received += chunk;
      const end = received.indexOf('\n');
      if (end >= 0) {
        const [, hostname, machineId] = /^ok (\S+) ([0-9a-f]{32})$/.exec(received.slice(0, end)) ?? [];
        if (hostname === undefined || machineId === undefined) fail('hypervisor', received.slice(0, Math.min(end, 500)));
        else settle(() => resolve({ hostname, machineId }));
      } else if (received.length > answerBytes) fail('hypervisor', `it answers without an end: ${received.slice(0, 100)}`);
    });
    socket.on('error', (error) => fail('hypervisor', error.message));
    socket.on('close', () => fail('hypervisor', `the guest's end was closed: ${received.slice(0, 500)}`));
  });
}
