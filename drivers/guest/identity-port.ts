import { connect } from 'node:net';
import { BerthError } from '../../model/errors.ts';

/** The identity that a guest reports after it has applied one. */
interface ReportedIdentity {
  hostname: string;
  machineId: string;
}

/** The port's name in the guest, where berth-identity waits at it (infra/guest/identity.c). */
export const identityPortName = 'org.berth.identity.0';

/** An answer is a line of a hundred bytes, an error one of a few hundred. */
const answerBytes = 4096;

/**
 * Sends a guest that was started from a template its identity, through the port at which a process of the template waits:
 * one message and one answer, and the guest starts no program for it (docs/decisions/0086). Both parts are records as
 * berth-identity reads them. Resolves when the guest has applied the first part and reported its identity; it applies the
 * second part afterwards, before any command is started.
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
      settle(() => reject(new BerthError(code, `sending the guest at ${path} its identity: ${why}`)));
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
      } else if (received.length > answerBytes)
        fail('hypervisor', `its answer is longer than ${answerBytes} bytes: ${received.slice(0, 100)}`);
    });
    socket.on('error', (error) => fail('hypervisor', error.message));
    socket.on('close', () => fail('hypervisor', `the guest closed the port: ${received.slice(0, 500)}`));
  });
}
