import { BerthError } from '../../model/errors.ts';
import type { Streams } from '../ports/streams.ts';
import type { FakeState } from './state.ts';

/** A guest whose domain has the port runs the program as well. */
export const createFakeStreams = (state: FakeState): Streams => ({
  async open(domain, order) {
    const found = state.domains.get(domain);
    if (found === undefined) throw new BerthError('conflict', `connecting to ${domain}: it does not run on this host`);
    if (found.config.streamSocket === null && order.needsProgram && !order.console)
      throw new BerthError('guest-program-missing', `${domain} has no port of Berth's program`);
    if (state.streams.some((other) => other.order.id === order.id))
      throw new BerthError('unavailable', 'the API has taken this token already');
    state.streams.push({ domain, order: structuredClone(order) });
  },
});
