/** How often the usage of a best-effort lease is charged while it goes on: its hold is filled to an hour then. In seconds. */
export const billing = {
  intervalS: 900,
  /** The same after its owner was warned. */
  warnedIntervalS: 60,
} as const;
