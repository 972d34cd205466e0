import { createHash } from 'node:crypto';
import { BerthError } from '../../model/errors.ts';
import type { InputFetcher } from '../ports/input-fetcher.ts';
import { bug, type FakeState } from './state.ts';

export function createFakeInputFetcher(state: FakeState): InputFetcher {
  return {
    async fetch(fetchRequest, signal) {
      signal.throwIfAborted();
      const content = state.repository.sources.get(fetchRequest.url);
      if (content === undefined) throw new BerthError('input-unavailable', `fetching ${fetchRequest.url}: it answered 404`);
      if (content.length > fetchRequest.limitBytes)
        throw new BerthError(
          'inputs-too-large',
          `fetching ${fetchRequest.url}: ${content.length} bytes, at most ${fetchRequest.limitBytes}`,
        );
      const sha256 = createHash('sha256').update(content).digest('hex');
      if (fetchRequest.sha256 !== null && fetchRequest.sha256 !== sha256)
        throw new BerthError('digest-mismatch', `fetching ${fetchRequest.url}: expected ${fetchRequest.sha256}, found ${sha256}`);
      const match = /\/vms\/([^/]+)\/inputs\/(.+)$/.exec(fetchRequest.destination);
      const folder = match?.[1] === undefined ? undefined : state.inputs.get(match[1]);
      if (folder === undefined || match?.[2] === undefined) throw bug(`${fetchRequest.destination} is in no folder of inputs`);
      folder.set(match[2], content);
      return { sizeBytes: content.length, sha256 };
    },
  };
}
