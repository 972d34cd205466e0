import type { Dispatcher } from 'undici';
import { z } from 'zod';
import type { EdgeAnswer, EdgeReport } from '../../contracts/edge.ts';
import { portProtocols } from '../../model/network/port-range.ts';
import { askApi } from './ask-api.ts';

const maxAnswerBytes = 64 * 2 ** 20;

/** What becomes kernel rules is of the form that it has to have, whatever process answers. */
const address = z.ipv4();
const cidr = z.cidrv4();
const portNumber = z.int().min(1).max(65_535);
const vni = z
  .int()
  .min(1)
  .max(2 ** 24 - 1);
const answerSchema = z.object({
  turn: z.int(),
  epoch: z.int().nullable(),
  version: z.string(),
  wantsPorts: z.boolean(),
  orders: z
    .object({
      publicAddresses: z.array(address),
      peers: z.array(address),
      segments: z.array(z.object({ vni, cidr, address })),
      ports: z.array(
        z.object({
          id: z.string(),
          vni,
          protocol: z.enum(portProtocols),
          publicAddress: address,
          publicPort: portNumber,
          address,
          port: portNumber,
          allow: z.array(cidr),
          digest: z.string(),
        }),
      ),
    })
    .nullable(),
});

/** Throws an Error with a short reason for what is no answer. */
export function parseEdgeAnswer(text: string): EdgeAnswer {
  const { success, data, error } = answerSchema.safeParse(JSON.parse(text));
  if (success) return data;
  const [first] = error.issues;
  throw new Error(`the API's answer is none: ${first?.path.join('.')}: ${first?.message.slice(0, 200)}`);
}

interface EdgeOrdersOptions {
  /** Base URL of the API. */
  apiUrl: string;
  edgeId: string;
  /** File with this edge's key; read at each call, so that a replaced key needs no restart. */
  keyFile: string;
  timeoutMs: number;
}

/** One exchange of an edge with the API. Rejects where that does not answer within the time, or refuses. */
export function openEdgeOrders(dispatcher: Dispatcher, { apiUrl, edgeId, keyFile, timeoutMs }: EdgeOrdersOptions) {
  const access = { dispatcher, keyFile, maxAnswerBytes };
  const url = new URL(`/internal/edges/${edgeId}/orders`, apiUrl);
  return async (report: EdgeReport): Promise<EdgeAnswer> => {
    const { status, text } = await askApi(access, url, { signal: AbortSignal.timeout(timeoutMs), report });
    if (status !== 200) throw new Error(`${url.host} answered ${status}: ${text.slice(0, 500)}`);
    return parseEdgeAnswer(text);
  };
}
