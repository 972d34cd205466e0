import { parentPort } from 'node:worker_threads';
import { BerthError } from '../../../model/errors.ts';
import { listSelected } from './list-files.ts';
import type { ListReply, ListRequest } from './lister.ts';

/** The thread that reads the structures of one disk, and ends. */
parentPort?.once('message', ({ image, patterns, budget }: ListRequest) => {
  parentPort?.postMessage(reply(() => listSelected(image, patterns, budget)));
});

/** A BerthError would lose its class between threads. */
function reply(act: () => Extract<ListReply, { kind: 'listing' }>['listing']): ListReply {
  try {
    return { kind: 'listing', listing: act() };
  } catch (error) {
    if (error instanceof BerthError) return { kind: 'refused', code: error.code, message: error.message };
    throw error;
  }
}
