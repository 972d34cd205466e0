/** `advise`: decisions are made and shown, and nothing moves. */
export const balancerModes = ['off', 'advise', 'auto'] as const;
export type BalancerMode = (typeof balancerModes)[number];

/** `open`: hosts offer capacity; `moving`: VMs move, or have moved and the effect is being measured. */
export const balanceStates = ['open', 'moving', 'advised', 'stayed', 'ended'] as const;
export type BalanceState = (typeof balanceStates)[number];

/** For how long a host offers capacity; a decision is made within a second. */
export const offerS = 60;
