import { divideHalfEven, mibPerGiB, millionths, msPerHour } from './exact.ts';
import type { PriceTerms } from './price-terms.ts';

/** What an owner pays for besides leases. */
export const services = ['repository', 'ports'] as const;
export type Service = (typeof services)[number];

/** What an owner has used of them: bytes and ports, each × milliseconds. */
export interface ServiceUsage {
  byteMs: bigint;
  portMs: bigint;
}

const bytesPerGiB = mibPerGiB * 1024n * 1024n;

/** A cost of services is an integer of these parts of a micro-unit: a millisecond of a byte is a whole number of them. */
export const servicePartsPerMicro = msPerHour * bytesPerGiB;

/** What usage costs, in parts, exact. */
export function serviceCosts({ services: prices }: PriceTerms, { byteMs, portMs }: ServiceUsage): Record<Service, bigint> {
  return {
    repository: byteMs * BigInt(prices?.repositoryGiBHourMicros ?? 0),
    ports: portMs * BigInt(prices?.portHourMicros ?? 0) * bytesPerGiB,
  };
}

/** What is posted of a cost that is due. */
export interface ServiceCharge {
  buyerMicros: bigint;
  taxMicros: bigint;
  /** The rest, so that they sum to what the buyer pays. */
  siteMicros: bigint;
  /** What stays due: of a rounding, below zero as well, and what the account does not have. */
  leftParts: bigint;
  /** In whole micro-units, what of it the account does not have. */
  unpaidMicros: bigint;
}

/**
 * Charges what is due, as far as the account has it: rounded once, half to even, and what the rounding leaves is due the next time, so
 * that all charges together are the cost to the micro-unit.
 */
export function serviceCharge({ taxMillionths }: PriceTerms, dueParts: bigint, availableMicros: bigint): ServiceCharge {
  const dueMicros = divideHalfEven(dueParts, servicePartsPerMicro);
  const affordable = availableMicros > 0n ? availableMicros : 0n;
  const buyerMicros = dueMicros <= 0n ? 0n : dueMicros < affordable ? dueMicros : affordable;
  const tax = BigInt(taxMillionths);
  const taxMicros = divideHalfEven(buyerMicros * tax, millionths + tax);
  return {
    buyerMicros,
    taxMicros,
    siteMicros: buyerMicros - taxMicros,
    leftParts: dueParts - buyerMicros * servicePartsPerMicro,
    unpaidMicros: dueMicros > buyerMicros ? dueMicros - buyerMicros : 0n,
  };
}
