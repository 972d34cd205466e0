export const portProtocols = ['tcp', 'udp'] as const;
export type PortProtocol = (typeof portProtocols)[number];

export interface PortRange {
  first: number;
  last: number;
}

/** The ports from one to another, as digits name them; null: they are none, or in the wrong order. */
export function portRange(from: string, to: string): PortRange | null {
  const [first, last] = [Number(from), Number(to)];
  return first >= 1 && first <= last && last <= 65_535 ? { first, last } : null;
}
