/** A host that could be reserved, and what it costs to vacate it. */
export interface ReservableHost {
  host: string;
  /** What its VMs take to leave, as expected. */
  meanS: number;
  /** Why it can't be had; null: it can. */
  refusal: string | null;
}

export type ReservedHosts = { hosts: string[] } | { refused: { host: string; why: string }[] };

/**
 * The hosts that cost least to vacate, by id among equals.
 * @param count how many are wanted
 */
export function chooseHostsToReserve(offers: readonly ReservableHost[], count: number): ReservedHosts {
  const good = offers.filter(({ refusal: problem }) => problem === null);
  if (good.length < count)
    return { refused: offers.flatMap(({ host, refusal: problem }) => (problem === null ? [] : [{ host, why: problem }])) };
  const cheapest = good.toSorted((a, b) => a.meanS - b.meanS || (a.host < b.host ? -1 : 1));
  return { hosts: cheapest.slice(0, count).map(({ host }) => host) };
}
