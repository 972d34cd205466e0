import type { PortProtocol } from '../model/network/port-range.ts';

/** An owner's segment as an edge joins it. */
export interface EdgeSegment {
  vni: number;
  cidr: string;
  /** Of this edge in it. */
  address: string;
}

/** A published port whose VM has an address. */
export interface PortOrder {
  id: string;
  vni: number;
  protocol: PortProtocol;
  publicAddress: string;
  publicPort: number;
  /** The VM's, and the port there. */
  address: string;
  port: number;
  /** CIDRs of the clients; none: everybody. */
  allow: string[];
  /** Of all of the above. */
  digest: string;
}

/** All that an edge needs: what is not here is not let through. */
export interface EdgeOrders {
  publicAddresses: string[];
  /** Addresses of the site's hosts. */
  peers: string[];
  segments: EdgeSegment[];
  ports: PortOrder[];
}

/** What an edge says with each pass. */
export interface EdgeReport {
  address: string;
  /** Of the last answer; null: it has had none. */
  turn: number | null;
  /** The number of the lease by which it had the public addresses; null: it had none. */
  epoch: number | null;
  /** The version of the orders that it has already. */
  version: string | null;
  /**
   * Every port that it has or has yet to apply, by id, with the digest of what its kernel has; '' where that has it not. null: it
   * was not asked for.
   */
  ports: Record<string, string> | null;
  /** Why its last pass failed; null: it did not. */
  problem: string | null;
}

export interface EdgeAnswer {
  /** Grows with each exchange. */
  turn: number;
  /** The number of its lease; null: another edge has the public addresses. */
  epoch: number | null;
  version: string;
  /** Its next report is to have its ports. */
  wantsPorts: boolean;
  /** null: those of the version that it has. */
  orders: EdgeOrders | null;
}
