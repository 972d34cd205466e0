import { z } from 'zod';
import { acceptLoadBatch } from '../../../ledger/load/record-batch.ts';
import { loadLimits } from '../../../model/load/load.ts';
import type { ApiDeps } from '../../deps.ts';
import { noContent } from '../../http/answer.ts';
import { type Operation, operation } from '../../http/operation.ts';
import { LoadBatchBody } from '../../schemas/load/loads.ts';

/** The route by which host workers report the load of their hosts, with the hosts' own keys. */
export function hostLoadRoutes({ ledger, clock }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'post',
      path: '/internal/hosts/{hostId}/load',
      id: 'reportLoad',
      tag: 'internal',
      summary: 'The load of a host and its VMs; the same batch again changes nothing',
      access: 'host',
      params: z.strictObject({ hostId: z.string().max(63) }),
      body: LoadBatchBody,
      maxBodyBytes: loadLimits.batchBytes,
      answers: { 204: { description: 'Kept' } },
      problems: ['not-found'],
      handle: async ({ params: { hostId }, body }) => {
        await acceptLoadBatch(ledger, hostId, body, clock());
        return noContent;
      },
    }),
  ];
}
