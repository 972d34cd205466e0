import { z } from 'zod';
import { changeSweepsOff, changeSweepsOn, readSweeps, type SweepsRecord } from '../../ledger/repository/change-sweeps.ts';
import { sweepHoldTexts } from '../../model/repository/sweep.ts';
import type { ApiDeps } from '../deps.ts';
import { json } from '../http/answer.ts';
import { type Operation, operation } from '../http/operation.ts';
import { Repository, RepositoryChange } from '../schemas/repository.ts';

const Swept = z.record(z.string(), z.int().nullable()).nullable();

function show({ site, hold, heldAt, found, sweptAt, swept }: SweepsRecord): z.input<typeof Repository> {
  return {
    site,
    sweeps: hold === null ? 'on' : 'off',
    hold:
      hold === null || heldAt === null
        ? null
        : {
            reason: hold,
            message: sweepHoldTexts[hold],
            since: heldAt.toISOString(),
            kept: found?.kept ?? null,
            orphans: found?.orphans ?? null,
          },
    sweptAt: sweptAt?.toISOString() ?? null,
    swept: Swept.parse(swept),
  };
}

export function repositoryRoutes({ ledger, log, clock }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/v1/repository',
      id: 'getRepository',
      tag: 'repository',
      summary: 'Describe the repository and its sweeps',
      access: 'operator',
      answers: { 200: { description: 'The repository', schema: Repository } },
      problems: [],
      handle: async () => json(200, show(await readSweeps(ledger))),
    }),
    operation({
      method: 'patch',
      path: '/v1/repository',
      id: 'changeRepository',
      tag: 'repository',
      summary: 'Turn sweeps off, or on again',
      description:
        'A hold ends by `{"sweeps": "on", "accept": REASON}`, where the reason is that of the hold: 409 `conflict` otherwise. Check first that ledger and repository belong together.',
      access: 'operator',
      body: RepositoryChange,
      answers: { 200: { description: 'The repository after the change', schema: Repository } },
      problems: ['conflict'],
      handle: async ({ body, caller }) => {
        if (body.sweeps === 'off') await changeSweepsOff(ledger, clock());
        else await changeSweepsOn(ledger, body.accept ?? null);
        log.info({ keyId: caller.keyId, ...body }, 'sweeps of the repository changed by an operator');
        return json(200, show(await readSweeps(ledger)));
      },
    }),
  ];
}
