import type { VmId } from '../../model/ids.ts';
import type { StreamRequest } from '../../model/streams/frames.ts';
import type { Ledger } from '../client.ts';
import { writeEvent } from '../events/write-event.ts';
import { inTransaction, requestLimits } from '../transaction.ts';
import { lockVm, vmEventFields } from './vm-row.ts';

interface AcceptedSession {
  vm: VmId;
  key: string;
  /** 32 hexadecimal digits. */
  session: string;
  kind: StreamRequest['kind'] | 'console';
  nowMs: number;
}

/** Of the session's id, as a number: it tells the events of one VM apart. */
const numberDigits = 12;

/** Writes `berth.vm.sessionOpened`: which key has opened a session in which VM. The command is in no event and in no log. */
export async function acceptSession(ledger: Ledger, { vm, key, session, kind, nowMs }: AcceptedSession): Promise<void> {
  await inTransaction(
    ledger,
    async (tx) => {
      const row = await lockVm(tx, vm);
      const time = new Date(nowMs).toISOString();
      const n = Number.parseInt(session.slice(0, numberDigits), 16);
      const data = { ...vmEventFields(row), key, session, kind, openedAt: time };
      await writeEvent(tx, { type: 'berth.vm.sessionOpened', subject: vm, owner: row.ownerId, time, data, n }, 'ignore');
    },
    requestLimits,
  );
}
