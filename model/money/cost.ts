import { costPartsPerMicro, divideUp, greatest, mibPerGiB } from './exact.ts';
import { minutesPerDay, type PriceRule, type PriceTerms } from './price-terms.ts';

/** What something takes while it is metered. */
export interface MeteredSize {
  vcpus: number;
  memoryMiB: number;
  diskMiB: number;
}

/** An interval of metered usage at one provider, in milliseconds since 1970; it ends before it begins nowhere. */
export interface MeteredInterval extends MeteredSize {
  provider: string;
  fromMs: number;
  untilMs: number;
}

const msPerMinute = 60_000;
const msPerDay = minutesPerDay * msPerMinute;

/** A part of each day in which the same rules apply: [from, until) in milliseconds after midnight, UTC. */
interface DaySpan {
  from: number;
  until: number;
}

/** The spans between all times at which a rule begins or ends to apply. */
function daySpans({ rules }: PriceTerms): DaySpan[] {
  const bounds = [0, minutesPerDay, ...rules.flatMap(({ dayFrom, dayUntil }) => [dayFrom ?? 0, dayUntil ?? 0])];
  const sorted = [...new Set(bounds)].sort((a, b) => a - b).map((minutes) => minutes * msPerMinute);
  return sorted.slice(1).map((until, index) => ({ from: sorted[index]!, until }));
}

/** Milliseconds of a span of each day from 1970 to a moment. */
function msBefore(moment: number, { from, until }: DaySpan): number {
  const days = Math.floor(moment / msPerDay);
  const today = Math.min(Math.max(moment - days * msPerDay - from, 0), until - from);
  return days * (until - from) + today;
}

/** Whether a rule applies to the whole of a span. */
function isInForce({ dayFrom, dayUntil }: PriceRule, span: DaySpan): boolean {
  if (dayFrom === undefined || dayUntil === undefined) return true;
  const minute = span.from / msPerMinute;
  return dayFrom < dayUntil ? dayFrom <= minute && minute < dayUntil : minute >= dayFrom || minute < dayUntil;
}

/** Cost parts of a millisecond. */
const ratePerMs = (rule: PriceRule, { vcpus, memoryMiB, diskMiB }: MeteredSize): bigint =>
  BigInt(vcpus) * BigInt(rule.vcpuHourMicros) * mibPerGiB +
  BigInt(memoryMiB) * BigInt(rule.memoryGiBHourMicros) +
  BigInt(diskMiB) * BigInt(rule.diskGiBHourMicros);

/** The cost of an interval in cost parts, exact: each millisecond at the first rule that applies to it. @param spans of the terms */
function costOf({ rules }: PriceTerms, spans: readonly DaySpan[], interval: MeteredInterval): bigint {
  return spans.reduce((sum, span) => {
    const ms = msBefore(interval.untilMs, span) - msBefore(interval.fromMs, span);
    const rule = rules.find((one) => (one.provider === undefined || one.provider === interval.provider) && isInForce(one, span))!;
    return sum + BigInt(ms) * ratePerMs(rule, interval);
  }, 0n);
}

/** What usage costs, by provider, in cost parts. */
export function costByProvider(terms: PriceTerms, intervals: readonly MeteredInterval[]): Map<string, bigint> {
  const costs = new Map<string, bigint>();
  const spans = daySpans(terms);
  for (const interval of intervals)
    costs.set(interval.provider, (costs.get(interval.provider) ?? 0n) + costOf(terms, spans, interval));
  return costs;
}

/** The highest cost of a millisecond within a span, whichever provider has it. */
function highestRate(terms: PriceTerms, size: MeteredSize, span: DaySpan): bigint {
  const applying = terms.rules.filter((rule) => isInForce(rule, span));
  // A provider that no rule names gets the first rule for all.
  const reachable = applying.slice(0, applying.findIndex(({ provider }) => provider === undefined) + 1);
  return reachable.reduce((most, rule) => greatest(most, ratePerMs(rule, size)), 0n);
}

/** When something is used: within known times, or for so long at an unknown time of the day. */
export type UsageTime = { fromMs: number; untilMs: number } | { durationMs: number };

/** The most that something can cost in micro-units, whichever providers have it. */
export function mostMicros(terms: PriceTerms, size: MeteredSize, time: UsageTime): bigint {
  const rates = daySpans(terms).map((span) => ({ span, highest: highestRate(terms, size, span) }));
  const cost =
    'durationMs' in time
      ? BigInt(time.durationMs) * rates.reduce((most, { highest }) => greatest(most, highest), 0n)
      : rates.reduce(
          (sum, { span, highest }) => sum + BigInt(msBefore(time.untilMs, span) - msBefore(time.fromMs, span)) * highest,
          0n,
        );
  return divideUp(cost, costPartsPerMicro);
}
