import { ApplicationFailure, type DataConverter, type Payload, type PayloadCodec } from '@temporalio/common';
import type { Logger } from '../model/log.ts';

/**
 * Bound on each value that crosses Temporal: what is larger goes by reference. The server refuses values above 2 MiB, and
 * ends a workflow whose history is above 50.
 */
export const maxPayloadBytes = 256 * 1024;

/** What is told of a value beyond the bound. */
interface Excess {
  bytes: number;
  /** Where it is known, the workflow or the activity of the value. */
  of: object;
}

function budget(onExcess: (excess: Excess) => void): DataConverter {
  const codec: PayloadCodec = {
    encode: async (payloads: Payload[], context) => {
      for (const { data } of payloads)
        if (data != null && data.length > maxPayloadBytes) onExcess({ bytes: data.length, of: context ?? {} });
      return payloads;
    },
    decode: async (payloads) => payloads,
  };
  return { payloadCodecs: [codec] };
}

/** For a site's processes: a value beyond the bound is logged, and goes on its way. */
export const loggedBudget = (log: Logger): DataConverter =>
  budget((excess) => log.error(excess, `a value of more than ${maxPayloadBytes} bytes crosses Temporal`));

/** For tests: what sends a value beyond the bound fails, and nothing repeats it. */
export const strictBudget = (): DataConverter =>
  budget(({ bytes, of }) => {
    const message = `BUG: a value of ${bytes} bytes crosses Temporal, of at most ${maxPayloadBytes}: ${JSON.stringify(of)}`;
    throw ApplicationFailure.create({ message, type: 'internal', nonRetryable: true });
  });
