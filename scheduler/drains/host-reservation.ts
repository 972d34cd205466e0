/** A candidate for a reservation of hosts, and the cost to vacate it. */
export interface ReservableHost {
  host: string;
  /** Expected time for its VMs to leave. */
  meanS: number;
  /** Why it can't be reserved; null: it can. */
  refusal: string | null;
}

type ReservedHosts = { hosts: string[] } | { refused: { host: string; why: string }[] };

/**
 * The hosts that cost least to vacate, by id among equals.
 * @param count how many are wanted
 */
export function chooseHostsToReserve(offers: readonly ReservableHost[], count: number): ReservedHosts {
  const available = offers.filter(({ refusal }) => refusal === null);
  if (available.length < count)
    return { refused: offers.flatMap(({ host, refusal }) => (refusal === null ? [] : [{ host, why: refusal }])) };
  const cheapest = available.toSorted((a, b) => a.meanS - b.meanS || (a.host < b.host ? -1 : 1));
  return { hosts: cheapest.slice(0, count).map(({ host }) => host) };
}
