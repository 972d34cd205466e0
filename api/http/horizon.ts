import { BerthError } from '../../model/errors.ts';
import { horizonDays } from '../../model/input/horizon.ts';

/**
 * Refuses (`bad-request`) times beyond the horizon.
 * @param times RFC 3339, by the JSON pointer of the field; undefined or null: the field was not given
 */
export function refuseBeyondHorizon(nowMs: number, times: Record<string, string | null | undefined>): void {
  const latest = new Date(nowMs + horizonDays * 86_400_000).toISOString();
  const fields = Object.entries(times).flatMap(([pointer, time]) =>
    typeof time === 'string' && Date.parse(time) > Date.parse(latest)
      ? [{ pointer, detail: `found ${time}; expected at most ${horizonDays} days from now, ${latest}` }]
      : [],
  );
  if (fields.length > 0) throw new BerthError('bad-request', 'A time is too far ahead; see errors', { fields });
}
