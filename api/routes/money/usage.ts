import { readUsageLines } from '../../../ledger/usage/read-usage-lines.ts';
import { usageCloudEvent } from '../../../model/money/usage-lines.ts';
import type { ApiDeps } from '../../deps.ts';
import { json, streamed } from '../../http/answer.ts';
import { visibleOwner } from '../../http/auth.ts';
import { type Operation, operation } from '../../http/operation.ts';
import { UsageBatch, UsagePage, UsageQuery } from '../../schemas/money/usage.ts';

const batchType = 'application/cloudevents-batch+json';

export function usageRoutes({ ledger }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/v1/usage',
      id: 'listUsage',
      tag: 'usage',
      summary: 'Read usage in the order in which it was told, each moment once',
      description:
        'By the cursor of events. `format=cloudevents` has the same lines as a batch of CloudEvents (`application/cloudevents-batch+json`), as OpenMeter takes it, with the next call in the header `Link`; an empty batch is the end of now.',
      access: 'client',
      query: UsageQuery,
      answers: {
        200: {
          description: 'Usage, oldest first',
          schema: UsagePage,
          formats: { [batchType]: UsageBatch },
          headers: { Link: 'Of a batch: the next call, `rel="next"`' },
        },
      },
      problems: ['cursor-expired'],
      handle: async ({ caller, query: { after, limit, format }, res }) => {
        const start = after === undefined ? null : BigInt(after);
        const { lines, next, more } = await readUsageLines(ledger, visibleOwner(caller), { after: start, limit });
        if (format === 'json') return json(200, { items: lines, next: String(next), more });
        res.set('Link', `</v1/usage?after=${next}&limit=${limit}&format=cloudevents>; rel="next"`);
        res.type(batchType).end(JSON.stringify(lines.map(usageCloudEvent)));
        return streamed;
      },
    }),
  ];
}
